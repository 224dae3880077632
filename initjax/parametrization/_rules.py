"""The table of width scaling: what each role does to init and rates.

All values are ratios to the base, where all are 1. r_in, r_out: growth of
fan_in and fan_out by use; g: growth of the entries that one repeat uses.

    role        init std    Adam-like    SGD          ε
    input       1           1            g            1/r_out
    hidden      r_in^-½     1/r_in       g/r_in²      1/r_out
    output      1/r_in      1/r_in       g/r_in²      1
    vector      1           1            g            1/g

Reference: Yang et al. 2022, "Tensor Programs V", Tables 3 and 8, as ratios.
"""

import math
from typing import Literal, NamedTuple

Role = Literal[
  "input", "hidden", "output", "bottleneck", "vector", "fixed", "unknown"
]
"""What grows: fan_out, both, fan_in (at the end or inside), neither but its
length, nothing at all; or it is not known what."""
ROLES: tuple[Role, ...] = (
  "input", "hidden", "output", "bottleneck", "vector", "fixed", "unknown"
)  # fmt: skip


class Width(NamedTuple):
  """Factors of one role."""

  init: float = 1.0
  """of the standard deviation"""
  adam: float = 1.0
  sgd: float = 1.0
  eps: float = 1.0
  parameter_scaled: float = 1.0
  """of the rate, where updates are relative to a parameter's size"""
  muon: float = 1.0
  """of the rate, where updates have singular values of 1"""


def role_of(
  growth_in: float, growth_out: float, growth: float, *, interior: bool
) -> Role:
  """The role of a use.

  >>> role_of(4.0, 1.0, 4.0, interior=False)
  'output'
  """
  grows_in, grows_out = growth_in != 1, growth_out != 1
  if grows_in and grows_out:
    return "hidden"
  if grows_in:
    return "bottleneck" if interior else "output"
  if grows_out:
    return "input"
  return "vector" if growth != 1 else "fixed"


def width(
  role: Role, growth_in: float, growth_out: float, growth: float
) -> Width:
  """The factors of the table.

  >>> width("hidden", 4.0, 4.0, 16.0)
  Width(init=0.5, adam=0.25, sgd=1.0, eps=0.25, parameter_scaled=0.5,
  muon=1.0)
  """
  match role:
    case "input":
      muon = math.sqrt(growth_out)
      return Width(sgd=growth, eps=1 / growth_out, muon=muon)
    case "hidden":
      root = 1 / math.sqrt(growth_in)
      rates = 1 / growth_in, growth / growth_in**2
      spectral = math.sqrt(growth_out / growth_in)
      return Width(root, *rates, 1 / growth_out, root, spectral)
    case "output" | "bottleneck":
      rates = 1 / growth_in, growth / growth_in**2
      muon = math.sqrt(1 / growth_in)
      return Width(1 / growth_in, *rates, muon=muon)
    case "vector":
      return Width(sgd=growth, eps=1 / growth)
  return Width()
