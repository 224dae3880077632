"""What a plan says about one leaf, and how its factors are combined."""

from typing import Any, Literal, NamedTuple

import numpy as np

from initjax.parametrization._rules import Role
from initjax.typing import Numbers

Kind = Literal["adam", "sgd", "parameter_scaled", "muon"]
"""How updates of an optimizer answer to the size of gradients: not at all, in
proportion, not at all but in proportion to parameters; or it makes kernels
orthogonal."""


class Scaling(NamedTuple):
  """How one leaf is scaled relative to the base.

  A factor is a number, or an array that broadcasts against the leaf.
  """

  path: str
  shape: tuple[int, ...]
  base_shape: tuple[int, ...]
  role: Role
  growth_in: float
  """of fan_in by use"""
  growth_out: float
  growth: float
  """of the entries that one repeat uses"""
  init: Numbers = 1.0
  """of the standard deviation, without what is absorbed"""
  adam: Numbers = 1.0
  """of the rate, likewise; so are the next four"""
  sgd: Numbers = 1.0
  eps: Numbers = 1.0
  parameter_scaled: Numbers = 1.0
  muon: Numbers = 1.0
  absorbed: Numbers = 1.0
  """c, a constant factor in the forward pass that the leaf takes over"""
  offset: float = 0.0
  """o, which the model adds to a leaf that takes c over: θ + o is c·(θ₁ + o)"""
  std: float | None = None
  """root mean square of the leaf in the base; None if not known"""
  in_axes: tuple[int, ...] | None = None
  """that are summed, for Muon"""
  out_axes: tuple[int, ...] | None = None
  why: str = ""

  @property
  def init_total(self) -> Numbers:
    """The desired root mean square, relative to that of the base."""
    return self.init * self.absorbed

  @property
  def shift(self) -> Numbers:
    """s such that θ/c + s/c is the parameter of a model with the factor c."""
    return self.offset * (1 - self.absorbed) if self.offset else 0.0

  def steps(self, kind: Kind) -> "Steps":
    """What an optimizer of one kind is given, and what its updates become.

    With c absorbed, gradients and steps with respect to the new parameter θ are
    those of θ/c times c. This is exact for every transformation.
    """
    c, shift = self.absorbed, self.shift
    match kind:
      case "sgd":
        return Steps(c, self.sgd * c, self.sgd * c, shift)
      case "parameter_scaled":
        return Steps(c / self.eps, c, self.parameter_scaled * c, shift)
      case "muon":
        return Steps(c, self.muon * c, self.muon * c, shift)
    return Steps(c / self.eps, self.adam * c, self.adam * c, shift)


class Steps(NamedTuple):
  """u = update · tx.update(gradient · g, state, (θ + shift) / parameter)."""

  gradient: Numbers
  parameter: Numbers
  update: Numbers
  shift: Numbers = 0.0


def compact(array: Numbers) -> Numbers:
  """The smallest array that broadcasts alike; a number if one will do.

  >>> compact(np.array([[1.0, 2.0], [1.0, 2.0]]))
  array([[1., 2.]])
  """
  if np.ndim(array) == 0:
    return float(array)
  found = np.asarray(array)
  for axis in range(found.ndim):
    first = found.take([0], axis)
    if (found == first).all():
      found = first
  return float(found.reshape(())) if found.size == 1 else found


def as_json(value: Numbers) -> Any:
  """Numbers, or nested lists."""
  return value.tolist() if isinstance(value, np.ndarray) else value


def of_json(value: Any) -> Numbers:
  """What `as_json` was given."""
  return np.asarray(value) if isinstance(value, list) else float(value)


def as_text(value: Numbers) -> str:
  """For a table: each number once.

  >>> as_text(0.25), as_text(np.array([0.5, 1.0, 1.0]))
  ('0.25', '0.5 | 1')
  """
  numbers = dict.fromkeys(np.ravel(value).tolist())
  return " | ".join(f"{number:.4g}" for number in numbers)
