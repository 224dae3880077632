"""One number per activation: the factor for the weights that follow it."""

import math
import sys
from typing import Literal

from initjax._activations import name_of
from initjax._checks import check_choice, check_number
from initjax.gains._moments import moments
from initjax.typing import Activation

_DIRECTIONS = ("forward", "backward", "centered")


def gain(
  activation: Activation,
  direction: Literal["forward", "backward", "centered"] = "forward",
  variance: float = 1.0,
) -> float:
  """Returns the gain g such that weights of variance g²/n keep signal sizes.

  With x ~ N(0, v):

      forward   g = √(v/E[φ(x)²])    pre-activations keep the second moment v
      backward  g = 1/√E[φ'(x)²]     gradients keep theirs
      centered  g = √(v/Var[φ(x)])   as forward, but with the mean subtracted

  Args:
    activation: any elementwise JAX function, kinks and jumps included.
    direction: "forward", "backward" or "centered".
    variance: the variance v > 0 of the pre-activations.

  Raises:
    ValueError: for an unknown direction; if the moment is 0 or infinite
      (backward: φ jumps, so φ' has a delta, or φ is as steep as √|x| at 0); and
      in the same cases as `moments`.

  >>> import jax
  >>> round(gain(jax.nn.relu), 12), round(gain(jax.numpy.tanh), 5)
  (1.414213562373, 1.59254)

  Reference: He et al. 2015, §2.2, for any φ; Poole et al. 2016, Eqs. 3, 12.
  """
  check_choice("direction", direction, _DIRECTIONS)
  check_number("variance", variance, low=0, open_low=True)
  m = moments(activation, variance)
  second_moment = float(m.second_moment)
  if direction == "backward":
    kept, unit = float(m.derivative_second_moment), 1.0
  elif direction == "centered":
    kept, unit = _variance(activation, float(m.mean), variance), variance
  else:
    kept, unit = second_moment, variance
  _check_kept(activation, direction, kept, second_moment)
  return math.sqrt(unit / kept)


def _variance(activation: Activation, mean: float, variance: float) -> float:
  """E[(φ - mean)²]: the difference E[φ²] - mean² would cancel."""
  centered = moments(lambda x: activation(x) - mean, variance)
  return float(centered.second_moment)


def _check_kept(
  activation: Activation, direction: str, kept: float, second_moment: float
) -> None:
  name = name_of(activation)
  if math.isinf(kept):
    raise ValueError(
      f"{name} jumps (or is as steep at a point as √|x| at 0, or declares a "
      "derivative that is not its own): E[φ'²] is infinite and no backward "
      "gain exists; use direction='forward'."
    )
  rounding = 0.0
  if direction == "centered":  # φ - mean is rounded to ε·|φ|
    rounding = (8 * sys.float_info.epsilon) ** 2 * second_moment
  if kept <= rounding:
    raise ValueError(
      f"{name} is constant where its argument lies: the {direction} moment is "
      "0, and no finite gain restores a signal that is gone."
    )


def torch_gain(name: str, param: float | None = None) -> float:
  """Returns exactly the gain that `torch.nn.init.calculate_gain` returns.

  Use it to port PyTorch models. It differs from the exact forward gain at
  variance 1: "tanh" is 5/3, not 1.59254 (the gradient grows 1.210-fold a layer,
  with the exact gain 1.178-fold); "selu" is 3/4, not 1 (the signal settles at a
  second moment of 0.023 and the gradient grows 1.004-fold a layer; with 1 the
  signal stays at 1 and the gradient grows 1.072-fold); "sigmoid" is 1, not
  1.84623 (the gradient keeps 0.056 or 0.153 of itself per layer: it vanishes
  either way). ELU, GELU, SiLU and Mish are missing. "relu" and "leaky_relu" are
  exact.

  Args:
    name: "linear", "conv1d", ..., "sigmoid", "tanh", "relu", "leaky_relu" or
      "selu".
    param: the negative slope of "leaky_relu" (default 0.01).

  Raises:
    ValueError: for a name that PyTorch does not know, or a slope that is not a
      number.

  >>> torch_gain("tanh")
  1.6666666666666667

  Reference: `torch.nn.init.calculate_gain`.
  """
  kinds = ("conv", "conv_transpose")
  convolutions = (f"{kind}{n}d" for kind in kinds for n in (1, 2, 3))
  table = {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
  table |= dict.fromkeys(("linear", "sigmoid", *convolutions), 1.0)
  if name == "leaky_relu":
    slope = 0.01 if param is None else param
    if isinstance(slope, bool) or not isinstance(slope, (int, float)):
      raise ValueError(f"param must be the negative slope; got {param!r}.")
    return math.sqrt(2 / (1 + slope**2))
  if name not in table:
    raise ValueError(
      f"PyTorch has no gain for {name!r}, only for {sorted(table)} and "
      "'leaky_relu'; initjax.gain computes that of any JAX function."
    )
  return table[name]
