"""Theory of a whole model: how large its signals and gradients should be."""

from initjax.propagation._predict import Prediction, predict, predict_rows
from initjax.propagation._walk import Fed, Signal, Walk, response

__all__ = ["Fed", "Prediction", "Signal", "Walk", "predict", "response"]
