"""What is wrong with a model, why, and what mends it."""

from initjax.diagnosis._causes import explain, typical
from initjax.diagnosis._diagnose import diagnose, verdicts_on
from initjax.diagnosis._law import Drift
from initjax.diagnosis._observe import Observed, observe
from initjax.diagnosis._parameters import without_detail

__all__ = ["diagnose"]
