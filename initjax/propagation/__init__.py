"""Theory of whole models: how large their signals and gradients should be."""

from initjax.propagation._images import kept_response
from initjax.propagation._predict import Prediction, predict, predict_rows
from initjax.propagation._signals import Fed, Signal
from initjax.propagation._walk import Walk

__all__ = ["Fed", "Prediction", "Signal", "Walk", "kept_response", "predict"]
