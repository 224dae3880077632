"""What is wrong with a model, why, and what mends it."""

from initjax.diagnosis._causes import explain as explain
from initjax.diagnosis._causes import typical as typical
from initjax.diagnosis._diagnose import diagnose
from initjax.diagnosis._diagnose import verdicts_on as verdicts_on
from initjax.diagnosis._law import Drift as Drift
from initjax.diagnosis._observe import Observed as Observed
from initjax.diagnosis._observe import observe as observe

__all__ = ["diagnose"]
