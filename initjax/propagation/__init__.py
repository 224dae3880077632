"""Theory of a whole model: how large its signals and gradients should be."""

from initjax.propagation._predict import Prediction, predict, predict_rows
from initjax.propagation._response import THEORY_FAILS, response

__all__ = [
  "THEORY_FAILS",
  "Prediction",
  "predict",
  "predict_rows",
  "response",
]
