"""Whole-model initialization: fast, by true fans, calibrated, by recipe."""

from initjax.schemes._calibrate import calibrate
from initjax.schemes._calibration import Calibration

__all__ = ["Calibration", "calibrate"]
