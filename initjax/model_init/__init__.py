"""Initializes whole models: fast, by true fans, or calibrated on data."""

from initjax.model_init._auto_init import auto_init, plan_init
from initjax.model_init._calibrate import calibrate
from initjax.model_init._calibration import Calibration
from initjax.model_init._init_variables import init_variables
from initjax.model_init._plan import VariancePlan, VarianceRow

__all__ = [
  "Calibration",
  "VariancePlan",
  "VarianceRow",
  "auto_init",
  "calibrate",
  "init_variables",
  "plan_init",
]
