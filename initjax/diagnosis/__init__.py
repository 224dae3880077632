"""Finds what is wrong with a model, why, and how to fix it."""

from initjax.diagnosis._chain import Chain
from initjax.diagnosis._diagnose import diagnose, verdicts_of_draws, verdicts_on
from initjax.diagnosis._growth import allowed_sigmas, cause_of_drift
from initjax.diagnosis._law import Drift
from initjax.diagnosis._observe import Observed, observe
from initjax.diagnosis._odd_layers import ODD
from initjax.diagnosis._parameters import without_detail

__all__ = ["diagnose", "verdicts_of_draws"]
