"""Gaussian moments and gains of any scalar activation, exact to 12 digits.

>>> import jax
>>> round(gain(jax.nn.silu), 6)
1.676532
"""

from initjax.gains._gain import gain, torch_gain
from initjax.gains._joint import JointMoments, joint_moments
from initjax.gains._length import Length, length
from initjax.gains._moments import Moments, moments

__all__ = [
  "JointMoments",
  "Length",
  "Moments",
  "gain",
  "joint_moments",
  "length",
  "moments",
  "torch_gain",
]
