"""`auto_init`: draws each kernel by its true fans and its actual input."""

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from initjax._checks import check_choice, check_key, check_number
from initjax._paths import leaves_by_path, paths_of
from initjax.graph import (
  Scale,
  SignalGraph,
  Trace,
  as_function,
  named_in,
  trace,
  with_advice,
)
from initjax.measurement import Known, known_of, mean_square_at
from initjax.model_init._assign import (
  Assigned,
  Kept,
  Tied,
  assign,
  kernels_of,
)
from initjax.model_init._draw import (
  DISTRIBUTIONS,
  Distribution,
  Draw,
  drawn_leaf,
)
from initjax.model_init._measured import as_warning, can_be_measured, strays
from initjax.model_init._plan import VariancePlan
from initjax.model_init._reasons import plan_of, wanted_of, warnings_of
from initjax.propagation import Walk
from initjax.reports import not_followed, short_paths

_CHOICES = {
  "direction": ("forward", "backward", "balanced"),
  "distribution": DISTRIBUTIONS,
  "tied": ("first", "last", "readout"),
}


@with_advice
def auto_init(
  key: jax.Array,
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  direction: Kept = "balanced",
  distribution: Distribution = "truncated_normal",
  tied: Tied = "readout",
  second_moment: float = 1.0,
  check: bool = True,
) -> Any:
  """Draws every kernel of a model with the variance that its place requires.

  The graph of `fn` shows how each parameter is used. A kernel whose input is
  φ(h) gets, with its true fans and ζ ~ N(0, 1),

      forward   Var W = 1/(fan_in·E[φ(√q ζ)²])    unit second moment comes out
      backward  Var W = 1/(fan_out·E[φ'(√q ζ)²])  the gradient keeps its size

  where q = E[h²] is tracked through sums (residual streams, and biases at their
  given values), products of branches that have kernels of their own (gated
  units; in the backward direction, the gradient of the product is kept),
  factors and normalizations. Constant factors between a parameter and its
  operation are compensated. Where the graph does not determine the second
  moment (softmax, pooling), it is assumed to be 1, as it is for an activation
  without finite moments (1/x, log x), and the plan says so. Fans are not
  averaged: along a stack, the ratios fan_in/fan_out cancel. However, where the
  gradient would grow more than tenfold along a chain of layers, as in 15 layers
  of tanh, "balanced" lets neither the gradient nor the signal grow,

      balanced  Var W = 1/(fan_in·max(E[φ(√q ζ)²], E[φ'(√q ζ)²])),

  because such models learn worse from unit signals: after 40 layers of tanh,
  unit signals are chaotic. Everywhere else, "balanced" is the rule "forward".

  If parameters and inputs are concrete arrays, and not mere placeholders (the
  same number throughout), the result is measured on them in one forward and one
  backward pass. A single warning reports signals that are eight times larger or
  smaller than intended, gradients that explode or vanish, and anything that
  theory predicts to be unstable. Non-finite values raise an error.

  Kernels that are sliced before use are drawn part by part, stacked kernels
  layer by layer, and the rows of an embedding with unit variance. If a kernel
  is used more than once, `tied` selects which of the uses that carry a signal
  decides. With "readout", a look-up is ignored if its table is also multiplied:
  logits then start with unit second moment, tokens with 1/fan_in if a norm
  precedes the readout, and positions that are added to tokens with the same.
  A kernel that is computed from parameters (weight standardization) is drawn as
  if it were used directly. Random keys are derived from paths, so the values of
  one parameter do not depend on the others.

  Args:
    key: a PRNG key.
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: any pytree. Kernels may be `jax.ShapeDtypeStruct`s; everything else
      must be concrete and is returned unchanged. If `fn` is a module that holds
      its parameters, omit `params` and pass the inputs directly.
    *inputs: the other arguments of `fn`; shapes are enough.
    direction: "forward", "backward" or "balanced".
    distribution: "truncated_normal", "normal", "uniform" or "orthogonal" (which
      draws embeddings and computed kernels from a normal distribution).
    tied: which use decides: "first", "last", or "readout", the first use that
      is not a look-up.
    second_moment: the second moment of the inputs, > 0.
    check: whether to measure the result, which costs about as much as one
      gradient and its compilation. Nothing is measured under tracing.

  Returns:
    The parameters, or a new module that holds them if one was given.

  Raises:
    ValueError: if an option is unknown, or nothing can be initialized.
    TypeError: if a parameter that is not a kernel has no value, or `key` is not
      a key.
    FloatingPointError: if the signal or the gradient is not finite.

  Warns:
    UserWarning: if theory predicts that the forward map is unstable, so that
      chance is amplified tenfold or more over the depth of the model; that a
      guess is raised to a power; or that the gradient changes 2^±10 times; and
      if the measured signal or gradient is out of range.

  >>> def mlp(params, x):
  ...   return jax.nn.relu(x @ params["first"]) @ params["second"]
  >>> shape = jax.ShapeDtypeStruct
  >>> params = {"first": shape((64, 256), jnp.float32),
  ...           "second": shape((256, 256), jnp.float32)}
  >>> x = jax.random.normal(jax.random.key(0), (512, 64))
  >>> params = auto_init(jax.random.key(1), mlp, params, x)
  >>> round(float(params["second"].std() * 256**0.5), 1)  # √2
  1.4

  Reference: He et al. 2015, Eqs. 7-14, for any φ; Poole et al. 2016, Eq. 3.
  """
  check_key(key)
  rules = {"direction": direction, "distribution": distribution, "tied": tied}
  fn, params, inputs, as_given = as_function(fn, params, inputs)
  traced, assigned = _assigned(fn, params, inputs, second_moment, rules)
  _check_values(leaves_by_path(params), assigned)
  drawn = _drawn(key, params, assigned, distribution)
  said = warnings_of(assigned)
  if check and can_be_measured(traced, drawn, inputs):
    rules.pop("direction")
    wanted = wanted_of(assigned, inputs, second_moment, **rules)
    said += strays(traced, drawn, inputs, wanted)
  if said:
    warnings.warn(as_warning("auto_init", said), stacklevel=3)
  return as_given(drawn)


@with_advice
def plan_init(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  direction: Kept = "balanced",
  distribution: Distribution = "truncated_normal",
  tied: Tied = "readout",
  second_moment: float = 1.0,
) -> VariancePlan:
  """Returns what `auto_init` would set, and why, without drawing anything.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: any pytree. Leaves may be `jax.ShapeDtypeStruct`s: if a leaf is not
      a kernel, scales are then assumed to be 1 and biases 0, and the plan says
      so. If `fn` is a module that holds its parameters, omit `params` and pass
      the inputs directly.
    *inputs: the other arguments of `fn`; shapes are enough.
    direction: as in `auto_init`, like all the options below.
    distribution: the distribution of the entries.
    tied: which use of a kernel decides.
    second_moment: the second moment of the inputs, > 0.

  Returns:
    A plan with a row for each use of a kernel, and notes on the model as a
    whole; `print` it.

  Raises:
    ValueError: if an option is unknown, or nothing can be initialized.

  >>> mlp = lambda p, x: jnp.tanh(x @ p["first"]) @ p["second"]
  >>> kernel = jax.ShapeDtypeStruct((64, 64), jnp.float32)
  >>> plan = plan_init(mlp, {"first": kernel, "second": kernel}, kernel)
  >>> [(row.path, round(row.gain, 3)) for row in plan.rows]
  [('first', 1.0), ('second', 1.593)]

  Reference: as `auto_init`.
  """
  rules = {"direction": direction, "distribution": distribution, "tied": tied}
  fn, params, inputs, _ = as_function(fn, params, inputs)
  _, assigned = _assigned(fn, params, inputs, second_moment, rules)
  drawn = {path for path, _ in assigned.table}
  kept = tuple(path for path in paths_of(params) if path not in drawn)
  return plan_of(assigned, kept, **rules)


def _assigned(
  fn: Callable[..., Any],
  params: Any,
  inputs: tuple[Any, ...],
  second_moment: float,
  rules: dict[str, Any],
) -> tuple[Trace, Assigned]:
  """A model as it was read; the variance of each kernel, and why."""
  for name, value in rules.items():
    check_choice(name, value, _CHOICES[name])
  check_number("second_moment", second_moment, low=0, open_low=True)
  traced = trace(fn, params, *inputs)
  assigned = assigned_to(traced.graph, params, inputs, second_moment, rules)
  _check_assigned(assigned)
  return traced, assigned


def assigned_to(
  graph: SignalGraph,
  params: Any,
  inputs: tuple[Any, ...],
  second_moment: float,
  rules: Mapping[str, Any],
) -> Assigned:
  """The variance of each kernel by these rules, and why."""
  leaves = leaves_by_path(params)
  known = known_of(graph, leaves, inputs)
  sizes = {path: math.prod(jnp.shape(leaf)) for path, leaf in leaves.items()}
  return assign(
    graph,
    kernels_of(graph, sizes),
    Walk(functools.partial(_mean_square, known), second_moment, assumes=True),
    direction=rules["direction"],
    tied=rules["tied"],
  )


def _mean_square(known: Known, scale: Scale) -> float:
  """Of a bias or a scale; NaN for a constant without values."""
  for path in named_in(scale):
    leaf = known.get(path)
    if isinstance(leaf, jax.core.Tracer):
      raise TypeError(_ABSTRACT.format(path=path, leaf=leaf))
  return mean_square_at(known, scale)


def _check_assigned(assigned: Assigned) -> None:
  """Raises if there is no kernel."""
  table = assigned.table
  if not table:
    raise ValueError(_nothing_to_draw(assigned.graph))


def _check_values(leaves: Mapping[str, Any], assigned: Assigned) -> None:
  """Raises if what is no kernel has no value."""
  drawn = {path for path, _ in assigned.table}
  for path, leaf in leaves.items():
    if isinstance(leaf, jax.ShapeDtypeStruct) and path not in drawn:
      raise TypeError(_ABSTRACT.format(path=path, leaf=leaf))


def _nothing_to_draw(graph: SignalGraph) -> str:
  """What was found in its place."""
  made = dict.fromkeys(path for op in graph.ops for path in op.paths)
  closed = sum(not op.paths for op in graph.ops)
  found = [_MADE.format(", ".join(short_paths(made).values()))] * bool(made)
  found += [f"constants that fn closes over ({closed})"] * bool(closed)
  listed = " and ".join(found)
  missed = not_followed(graph.not_followed)
  return (
    "expected a model that uses parameters in matrix products, convolutions "
    "or look-ups, found "
    f"{f'only {listed}' if found else 'none to initialize'}; "
    + (_NONE * (not made) or _DRAWN_BY_HAND)
    + f" {missed}." * bool(missed)
  )


_MADE = "kernels that are computed from smaller parameters: {}"
_DRAWN_BY_HAND = (
  "their variance does not follow from that of a kernel, so they keep the "
  "values that they have: choose these by hand, and measure the result."
)
_NONE = (
  "are its kernels, or its data, closed over instead of passed, as fn(params, "
  "x)?"
)
_ABSTRACT = (
  "expected a value for {path}, which is not a kernel, got {leaf}; take it "
  "from model.init or init_variables, or put jnp.zeros or jnp.ones there."
)


def _drawn(
  key: jax.Array, params: Any, assigned: Assigned, distribution: Distribution
) -> Any:
  """The parameters with every kernel drawn."""
  draws: dict[str, list[Draw]] = {}
  for (path, part), given in assigned.table.items():
    op = assigned.graph.ops[given.index]
    view = assigned.kernels[given.index].view
    draws.setdefault(path, []).append(Draw(op, view, given, part))
  leaves = leaves_by_path(params)
  shapes = {
    path: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
    for path, leaf in leaves.items()
  }
  for path, own in draws.items():
    leaf = leaves[path]
    draw: Callable[..., jax.Array] = functools.partial(
      drawn_leaf, path=path, shapes=shapes, draws=own, distribution=distribution
    )
    sharding = getattr(leaf, "sharding", None)
    traced = isinstance(leaf, jax.core.Tracer)
    if isinstance(sharding, NamedSharding) and not traced:
      draw = jax.jit(draw, out_shardings=sharding)
    abstract = isinstance(leaf, jax.ShapeDtypeStruct)
    leaves[path] = draw(key, start=None if abstract else leaf)
  return jax.tree.unflatten(jax.tree.structure(params), leaves.values())
