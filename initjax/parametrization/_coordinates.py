"""`coordinate_check`: measures whether a model trains alike at all widths."""

import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from initjax._checks import check_integer, check_key, type_of
from initjax._statistics import nan_is_unknown
from initjax.parametrization._coordinates_fit import exponents
from initjax.parametrization._coordinates_pass import (
  Setup,
  course,
  left_out,
)
from initjax.parametrization._coordinates_report import CoordinateCheck
from initjax.parametrization._coordinates_rows import paired
from initjax.parametrization._coordinates_verdicts import Found, verdicts_on
from initjax.parametrization._optimizer import check_optimizer


@nan_is_unknown()
def coordinate_check(
  build: Callable[[int], Setup],
  widths: Sequence[int] = (64, 128, 256, 512),
  steps: int = 4,
  seeds: int = 4,
  *,
  key: jax.Array | None = None,
) -> CoordinateCheck:
  """Measures whether signals, and their changes in training, keep their size.

  At each width, models train for a few steps from several seeds, in one
  compiled program. At every linear operation, and at every product of two
  signals, the output is compared with what the initial parameters give for the
  same batch:

      rms(h_t) ∝ width^a,  rms(h_t − h_0) ∝ width^b

  In a parametrization whose best rate does not depend on width, both exponents
  are near 0 from the second step on; in the standard one, b reaches ½ to 1.
  Exponents are accepted from −0.20 to +0.10 over all widths, and within ±0.10
  over the last two; from −0.6 to +0.10 for attention scores and for readouts
  that do not start at 0, whose sums of n terms have size 1/√n at the start. A
  bound counts as exceeded if it is exceeded by three standard errors over
  seeds, or by more if there are few seeds (Student). Changes at the level of
  rounding are not counted as changes.

  Args:
    build: width → `Setup(loss, init, optimizer, batch, plan=None)`: everything
      needed to train the model at that width. With a plan, what the parameters
      have absorbed of it is taken out of the sizes.
    widths: at least two, from narrow to wide, and wider than the plan's base.
    steps: the number of training steps, at a quarter of the best rate or less.
      A zero readout shows the most.
    seeds: the number of models at each width, at least two.
    key: the key from which seeds are drawn; `jax.random.key(0)` if None.

  Returns:
    The exponents by operation and step, and verdicts. `print(check)` shows a
    table, and `check.plot()` draws the figure. Parameters whose use cannot be
    read, or lies inside a `shard_map`, are not measured; they are listed in
    `check.not_followed`.

  Raises:
    TypeError: if `build` does not return a `Setup`, or it has no optimizer.
    ValueError: if there are too few widths, steps or seeds; if a loss is not a
      scalar; if init draws the same whatever the key; if models differ in more
      than their sizes; or if nothing is measured.

  >>> import initjax, jax, jax.numpy as jnp, optax
  >>> model = lambda w, x: jnp.tanh(x @ w["in"]) @ w["out"]
  >>> x = jax.random.normal(jax.random.key(1), (8, 3))
  >>> loss = lambda w, x: jnp.mean((model(w, x) - 1) ** 2)
  >>> def build(n):
  ...   draw = lambda key: {"in": jax.random.normal(key, (3, n)),
  ...                       "out": jnp.zeros((n, 1))}
  ...   return initjax.parametrization.Setup(loss, draw, optax.adam(0.01), x)
  >>> coordinate_check(build, widths=(32, 128), steps=2, seeds=2)
  CoordinateCheck(2 operations, widths 32…128: grows with width (error))

  Reference: Yang et al. 2022, "Tensor Programs V", Appendix D.1; this is the
  coordinate check of Microsoft's `mup`, with added errors and bounds.
  """
  _check(widths, steps, seeds)
  if key is not None:
    check_key(key)
  keys = jax.random.split(jax.random.key(0) if key is None else key, seeds)
  setups = [_setup(build, width) for width in widths]
  courses = [course(setup, keys, steps) for setup in setups]
  operations, sizes = paired(widths, setups, courses)
  if (sizes.signal == sizes.signal[:, :1]).all():
    raise ValueError(
      "init(key) draws the same parameters from every key: use the key, so "
      "that seeds differ and errors can be estimated."
    )
  x = np.log2(np.asarray(widths, float))
  found = Found(
    tuple(widths),
    operations,
    sizes,
    exponents(x, sizes.signal),
    exponents(x, sizes.change),
  )
  verdicts = verdicts_on(found, setups[-1].plan)
  return CoordinateCheck(found, verdicts, left_out(courses[-1].traced))


def _check(widths: Sequence[int], steps: int, seeds: int) -> None:
  if not isinstance(widths, Sequence):
    raise TypeError(f"widths must be a sequence of integers; got {widths!r}.")
  for width in widths:
    check_integer("each of widths", width, low=1)
  rising = all(a < b for a, b in itertools.pairwise(widths))
  if len(widths) < 2 or not rising:
    raise ValueError(
      f"widths must be two or more, from narrow to wide; got {tuple(widths)}."
    )
  check_integer("steps", steps, low=1)
  check_integer("seeds", seeds, low=2)


def _setup(build: Callable[[int], Setup], width: int) -> Setup:
  setup = build(width)
  if not isinstance(setup, Setup):
    raise TypeError(
      "build(width) must return initjax.parametrization.Setup(loss, init, "
      f"optimizer, batch, plan=None); got {type_of(setup)}."
    )
  check_optimizer(setup.optimizer)
  return setup
