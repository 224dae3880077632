"""Random models: steps one after another, and around one another.

`models()` is a strategy of Hypothesis, `random_model(seed)` one of them. What
has to hold of each is in random_laws.py.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from random_layers import LEAVES
from random_steps import BATCH, Built, Extra, Shape, Step, Use, project

START = Shape(4, 4)
WIDEST = 8
DTYPES = ("float64", "float64", "float32", "bfloat16")


class Model(NamedTuple):
  """All there is to say of a model."""

  steps: tuple[Step, ...]
  dtype: str = "float64"
  loss: bool = False
  """whether it returns a number, else a signal"""
  seed: int = 0
  """of values"""


# Around other steps


def sequence(shape: Shape, steps: Sequence[Step]) -> Built:
  """One after the other; parameters of the n-th are below "n"."""
  built: list[Built] = []
  for step in steps:
    built.append(build(built[-1].shape if built else shape, step))
    if built[-1].shape.width > max(WIDEST, shape.width):
      built.append(build(built[-1].shape, Step("dense")))

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    for place, one in enumerate(built):
      x = one.run(p.get(str(place), {}), x, extra)
    return x

  own = {str(i): one.params for i, one in enumerate(built) if one.params}
  uses = [_below(use, i) for i, one in enumerate(built) for use in one.uses]
  added = (f"{i}/{name}" for i, one in enumerate(built) for name in one.added)
  last = built[-1].shape if built else shape
  return Built(own, run, last, tuple(uses), tuple(added))


def _below(use: Use, place: int) -> Use:
  paths = (f"{place}/{path}" for path in use.path.split(", "))
  return use._replace(path=", ".join(paths))


def _back(shape: Shape, steps: Sequence[Step]) -> Built:
  """The steps, and what leads back to the shape at their beginning."""
  made = sequence(shape, steps)
  if made.shape.width != shape.width:
    back = Step("project", (shape.width, 0, 0, 0))
    made = sequence(shape, [*steps, back])
  if made.shape.time == shape.time:
    return made

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    y = made.run(p, x, extra).mean(1, keepdims=True)
    return jnp.broadcast_to(y, (y.shape[0], *shape))

  return made._replace(run=run, shape=shape)


def residual(shape: Shape, inner: Sequence[Step], way: int) -> Built:
  """x + f(x), perhaps times a number or a parameter."""
  made = _back(shape, inner)
  params, added = dict(made.params), made.added
  if way % 3 == 2:
    params["scale"] = ()
    added = (*added, "scale")

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    factor = p["scale"] if way % 3 == 2 else (1.0, 0.5)[way % 3]
    return x + factor * made.run(p, x, extra)

  return Built(params, run, shape, made.uses, added)


def beside(shape: Shape, inner: Sequence[Step], way: int) -> Built:
  """f(x) beside x; or beside the half of x that f is not given."""
  halved = way % 2 or shape.width > WIDEST // 2
  part = shape.width // 2 if halved and shape.width > 1 else 0
  first = shape._replace(width=shape.width - part)
  made = _back(first, inner)

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    kept, given = (x[..., :part], x[..., part:]) if part else (x, x)
    return jnp.concatenate([kept, made.run(p, given, extra)], axis=-1)

  width = shape.width if part else 2 * shape.width
  return made._replace(run=run, shape=Shape(shape.time, width))


def called(shape: Shape, inner: Sequence[Step], way: int) -> Built:
  """In a function that is compiled, or computed again."""
  made = sequence(shape, inner)
  wrap = (jax.jit, jax.checkpoint)[way % 2]
  run = lambda p, x, extra: wrap(made.run)(p, x, extra)
  return made._replace(run=run)


def layers(shape: Shape, inner: Sequence[Step], way: int) -> Built:
  """In a scan over stacked parameters."""
  made = _back(shape, inner)
  if not made.params:
    return made
  depth = 2 + way % 2
  wrap = jax.checkpoint if way % 4 == 3 else lambda body: body

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    body = wrap(lambda h, p: (made.run(p, h, extra), None))
    return jax.lax.scan(body, x, p)[0]

  stack = lambda shape: (
    (shape[0], depth, *shape[1:])
    if shape[:1] == ("complex",)
    else (depth, *shape)
  )
  params = jax.tree.map(stack, made.params, is_leaf=_is_shape)
  uses = (
    use if use.repeats is None else use._replace(repeats=(depth, *use.repeats))
    for use in made.uses
  )
  return Built(params, run, shape, tuple(uses), made.added)


def _is_shape(node: Any) -> bool:
  return isinstance(node, tuple)


def taken(shape: Shape, inner: Sequence[Step], way: int) -> Built:
  """In a branch that is taken, or not."""
  made = _back(shape, inner)

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    pick = extra.ids[0] < 1 if way % 2 else x.sum() > 0
    f = lambda x: made.run(p, x, extra).astype(x.dtype)
    return jax.lax.cond(pick, f, lambda x: 0.5 * x, x)

  return made._replace(run=run)


AROUND = {
  "residual": residual, "beside": beside, "called": called, "layers": layers,
  "taken": taken,
}  # fmt: skip


def build(shape: Shape, step: Step) -> Built:
  """A step for a signal of this shape."""
  if step.kind in AROUND:
    return AROUND[step.kind](shape, step.inner, step.numbers[0])
  leaf = project if step.kind == "project" else LEAVES[step.kind]
  made = leaf(shape, *step.numbers)
  uses = tuple(use._replace(kind=step.kind) for use in made.uses)
  return made._replace(uses=uses)


# Choosing steps

KINDS = tuple(LEAVES)
_MOST = 11
_numbers = st.tuples(*[st.integers(0, _MOST)] * 4)
_leaf = st.builds(Step, st.sampled_from(KINDS), _numbers)


def _around(inner: st.SearchStrategy[Step]) -> st.SearchStrategy[Step]:
  steps = st.lists(inner, min_size=1, max_size=2).map(tuple)
  return st.builds(Step, st.sampled_from(tuple(AROUND)), _numbers, steps)


def models(most: int = 3) -> st.SearchStrategy[Model]:
  """Of up to `most` steps, which may hold others, two deep."""
  once = _leaf | _around(_leaf)
  steps = st.lists(once | _around(once), min_size=1, max_size=most)
  return st.builds(
    Model,
    steps.map(tuple),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.integers(0, 3),
  )


def random_model(seed: int) -> Model:
  """The same for the same seed."""
  numbers = np.random.default_rng(seed)

  def step(depth: int) -> Step:
    own = tuple(numbers.integers(0, _MOST + 1, 4).tolist())
    if depth and numbers.random() < 0.3:
      inner = [step(depth - 1) for _ in range(numbers.integers(1, 3))]
      return Step(str(numbers.choice(list(AROUND))), own, tuple(inner))
    return Step(str(numbers.choice(KINDS)), own)

  steps = tuple(step(2) for _ in range(numbers.integers(1, 4)))
  dtype = str(numbers.choice(DTYPES))
  return Model(steps, dtype, bool(numbers.random() < 0.3), seed)


def wide_model(seed: int, width: int) -> Model:
  """Of kinds that theory is exact for: linear, relu, normalized, residual."""
  numbers = np.random.default_rng(seed)

  def matrix() -> Step:
    sizes = (width // 2, width)
    size, relu = int(numbers.choice(sizes)), int(numbers.integers(2))
    return Step("project", (size, 0, 0, relu))

  def step() -> Step:
    kind = str(numbers.choice(("", "", "norm", "residual", "beside", "layers")))
    way = int(numbers.integers(2))
    if kind in AROUND:
      return Step(kind, (way, 0, 0, 0), (matrix(),))
    return Step("norm", (way, 0, 0, 0)) if kind else matrix()

  steps = (matrix(), *(step() for _ in range(4)), matrix())
  return Model(steps, "float32", seed=seed)


# From data to functions


class Program(NamedTuple):
  """A model that can be called: `fn(params, x, extra)`."""

  built: Built
  fn: Callable[[Any, jax.Array, Extra], jax.Array]
  params: Any
  inputs: tuple[jax.Array, Extra]


def program(model: Model, start: Shape = START) -> Program:
  """Its function, parameters and inputs; within the x64 mode it asks for."""
  built = sequence(start, model.steps)
  numbers = np.random.default_rng(model.seed)
  real = jnp.dtype(model.dtype)

  def draw(shape: tuple[Any, ...]) -> jax.Array:
    is_complex = shape[:1] == ("complex",)
    shape = shape[1:] if is_complex else shape
    values = numbers.normal(size=shape)
    if not is_complex:
      return jnp.asarray(values, real)
    wide = np.complex128 if real.itemsize == 8 else np.complex64
    return jnp.asarray(values + 1j * numbers.normal(size=shape), wide)

  params = jax.tree.map(draw, built.params, is_leaf=_is_shape)
  ids = jnp.asarray(numbers.integers(0, 2, BATCH), jnp.int32)

  def fn(params: Any, x: jax.Array, extra: Extra) -> jax.Array:
    y = built.run(params, x, extra)
    return (y**2).mean() if model.loss else y

  inputs = draw((BATCH, *start)), Extra(ids, jax.random.key(model.seed))
  return Program(built, fn, params, inputs)
