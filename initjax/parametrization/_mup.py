"""`mup`: a plan of width and depth scaling, read from two graphs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from initjax._checks import check_integer, check_number, type_of
from initjax.parametrization._depth import read_depth
from initjax.parametrization._models import read_models
from initjax.parametrization._overrides import checked
from initjax.parametrization._parametrization import (
  Parametrization,
  with_shapes,
)
from initjax.parametrization._rows import scale
from initjax.parametrization._sizes import with_sizes


def mup(
  fn: Any,
  params: Any,
  *inputs: Any,
  base: Sequence[Any],
  init: Callable[[jax.Array], Any] | None = None,
  base_init: Callable[[jax.Array], Any] | None = None,
  base_depth: int | None = None,
  depth_exponent: float = 1.0,
  overrides: Any = None,
) -> Parametrization:
  """Scales any model, unedited, in width and depth (μP and CompleteP).

  Tune a base; then train a wider and deeper model with the same settings. How
  fan-ins and fan-outs grow from one to the other is read from both graphs, by
  use. This determines the sizes at which leaves start, and their rates:

      role     grows      init std   Adam-like   SGD
      input    fan_out    1          1           growth of its entries
      hidden   both       r_in^-½    1/r_in      growth of entries / r_in²
      output   fan_in     1/r_in     1/r_in      growth of entries / r_in²
      vector   length     1          1           growth of its entries

  as ratios to the base, where r_in is the growth of fan_in. Constant factors
  that the scaling requires in the forward pass (1/d attention, the factor of a
  tied readout) are absorbed by leaves that can take them, so the model itself
  does not change.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: any pytree; leaves may be `jax.ShapeDtypeStruct`s.
    *inputs: the other arguments of `fn`; they may be abstract, too.
    base: `(fn, params, *inputs)` of the same model at the width that is tuned,
      with inputs of the same shape.
    init: key → parameters of the model, for `plan.init`.
    base_init: key → parameters of the base, on which sizes are measured; if
      None, they are measured on those in `base`, if these are concrete.
    base_depth: the number of layers of the base, if it is built as deep as the
      model; if None, residual branches are counted in both.
    depth_exponent: α. With m times the layers of the base, a residual branch is
      multiplied by m^-α, and Adam's rate inside it by m^(α-1): 1 is CompleteP,
      and ½ its predecessors.
    overrides: `(pattern, {"adam": 0.5, ...})` pairs, or a dict of these, that
      replace a leaf's init, adam, sgd, eps, or role.

  Raises:
    TypeError: if `init` or `base_init` is not a function.
    ValueError: if leaves or inputs do not match, or if anything other than
      width and depth differs.

  Warns:
    UserWarning: if nothing grows, or the base is the wider model; if outputs
      grow unlike anything that is summed over, as with another number of
      classes; or if a leaf has two roles, a fan_out that grows much less than
      its fan_in, or a smaller init that a normalization undoes.

  >>> import jax.numpy as jnp
  >>> fn = lambda params, x: jnp.tanh(x @ params["in"]) @ params["out"]
  >>> shapes = lambda n: {"in": jnp.ones((3, n)), "out": jnp.ones((n, 2))}
  >>> x = jnp.ones((5, 3))
  >>> plan = mup(fn, shapes(64), x, base=(fn, shapes(16), x))
  >>> plan["out"].role, plan["out"].init, plan["out"].adam
  ('output', 0.25, 0.25)

  Reference: Yang et al. 2022, "Tensor Programs V", Tables 3 and 8; Dey et al.
  2025, "Don't be lazy: CompleteP enables compute-efficient deep transformers".
  Rates of embeddings are debated: Blake et al. 2024, "u-μP", use 1/√fan_out;
  see also Hayou & Liu 2025, "Optimal embedding learning rate in LLMs".
  """
  check_number("depth_exponent", depth_exponent, low=0, open_low=True)
  if base_depth is not None:
    check_integer("base_depth", base_depth, low=1)
  for name, draw in (("init", init), ("base_init", base_init)):
    if draw is not None and not callable(draw):
      raise TypeError(
        f"{name} must be a function from a key to parameters; got "
        f"{type_of(draw)}."
      )
  said = checked(overrides)
  models = read_models(fn, params, inputs, base)
  depth = read_depth(models, base_depth, depth_exponent)
  scaled = scale(models, depth, said)
  plan = Parametrization(scaled.rows, scaled.notes, scaled.incomplete, init)
  return with_shapes(with_sizes(plan, models, base_init), models.params)
