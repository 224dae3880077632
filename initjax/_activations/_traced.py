"""An activation φ as numbers: φ(x) and φ'(x) in float64, wherever we are.

Gains are computed while other code is being traced (an initializer is built
inside `jit`, `scan`, `shard_map`, under an explicit mesh) and whatever the
global precision is. A thread of its own has none of that state: there x64 is
switched on, the CPU is the device, and plain numbers come back.
"""

import concurrent.futures
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from initjax._activations._full_precision import rounds_in_jit, uncast, widened
from initjax.typing import Activation

T = TypeVar("T")

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

BLOCK = 1008  # one size of array, so that JAX compiles once
_LARGE_BLOCK = 1 << 14
_POINTS = jax.ShapeDtypeStruct((BLOCK,), np.float64)
_here = threading.local()
_TRACED = (
  "{name} uses a value that is being traced (by jit, grad, vmap or scan); "
  "its gain must be known beforehand, so the function may close over plain "
  "numbers only."
)


def in_float64(compute: Callable[[], T]) -> T:
  """`compute()` in float64 on the CPU, out of reach of the caller's traces.

  Many calls are faster inside one: a thread takes milliseconds to begin.

  Raises:
    RuntimeError: if JAX was started without its CPU backend.
  """
  if getattr(_here, "isolated", False):
    return compute()
  try:
    cpu = jax.local_devices(backend="cpu")[0]
  except RuntimeError as error:
    raise RuntimeError(
      "initjax computes gains in float64 on the CPU, but JAX was started "
      "without its CPU backend; set JAX_PLATFORMS to, for example, 'tpu,cpu'."
    ) from error

  def isolated() -> T:
    _here.isolated, _here.traced = True, {}
    with (
      jax.enable_x64(True),
      jax.default_device(cpu),
      jax.debug_nans(False),
      jax.debug_infs(False),
      jax.numpy_dtype_promotion("standard"),
      jax.numpy_rank_promotion("allow"),
    ):
      return compute()

  with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
    return thread.submit(isolated).result()


@dataclasses.dataclass(frozen=True, eq=False)
class TracedActivation:
  """A φ that equals another one when their jaxprs and constants do.

  An identity cache would miss `lambda x: jnp.tanh(x)` written twice; the jaxpr
  of φ alone would not tell two custom derivatives apart. The jaxprs are kept,
  so that no function named in their text by address is ever replaced.
  """

  name: str
  """how errors call it"""
  function: Activation
  """without its casts to fewer bits"""
  jaxprs: tuple[Any, ...]
  text: str
  constants: tuple[Any, ...]

  def __eq__(self, other: object) -> bool:
    return isinstance(other, TracedActivation) and self._key() == other._key()

  def __hash__(self) -> int:
    return hash(self._key())

  def _key(self) -> tuple[Any, ...]:
    return (self.text, self.constants)


def trace(activation: Activation) -> TracedActivation:
  """Reads φ; must run inside `in_float64`, once for all that is done there.

  Raises:
    ValueError: if φ is not elementwise or does not return real numbers.
    TypeError: if φ closes over a value that is being traced.
  """
  known = _here.traced
  if id(activation) not in known:  # φ is kept, so that no other has its id
    known[id(activation)] = activation, _trace(activation)
  return known[id(activation)][1]


def _trace(activation: Activation) -> TracedActivation:
  if not callable(activation):
    raise TypeError(
      f"activation must be a JAX function such as jax.nn.relu; got "
      f"{activation!r}."
    )
  name = name_of(activation)
  function, jaxpr, out = _jaxpr_of(activation, name)
  _check_output(name, out)
  jaxprs, text = [jaxpr], str(jaxpr)
  if "custom_" in text:  # a derivative of its own, unseen in the jaxpr
    jaxprs.append(_with_slope_jaxpr(name, function, BLOCK))
    text = f"{text}\n{jaxprs[1]}"
  found = [const for each in jaxprs for const in _all_constants(each)]
  if any(isinstance(const, jax.core.Tracer) for const in found):
    raise TypeError(_TRACED.format(name=name))
  constants = tuple(map(_fingerprint, found))
  return TracedActivation(name, function, tuple(jaxprs), text, constants)


def _jaxpr_of(activation: Activation, name: str) -> tuple[Activation, Any, Any]:
  """φ without its casts, its jaxpr and output; or why it has none."""

  def fresh(x: jax.Array) -> jax.Array:  # an object may have changed since
    return activation(x)

  for function in (uncast(fresh), fresh):  # which may ask for its own dtype
    try:
      traced = jax.make_jaxpr(function, return_shape=True)(_POINTS)
    except jax.errors.UnexpectedTracerError as error:
      raise TypeError(_TRACED.format(name=name)) from error
    except Exception as error:
      failure = error
    else:
      return _unjitted(function, traced)
  reason = str(failure).split("\n", maxsplit=1)[0]
  raise ValueError(
    f"{name} is not a JAX function of one array, elementwise: "
    f"{type(failure).__name__}: {reason} Write it with jax.numpy and jax.nn."
  ) from failure


def _unjitted(
  function: Activation, traced: tuple[Any, Any]
) -> tuple[Activation, Any, Any]:
  """φ with the constants exact that a jitted part has rounded."""

  def unjitted(x: jax.Array) -> jax.Array:
    with jax.disable_jit():
      return function(x)

  if rounds_in_jit(traced[0]):
    try:
      again = jax.make_jaxpr(unjitted, return_shape=True)(_POINTS)
    except Exception:  # asks for its own dtype
      return function, *traced
    return unjitted, *again
  return function, *traced


@functools.lru_cache(maxsize=64)
def evaluator(traced: TracedActivation) -> Evaluate:
  """x -> (φ(x), φ'(x)) for float64 arrays; must run inside `in_float64`."""
  run = _run(traced, BLOCK)

  def evaluate(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    padded = np.resize(x, (-(-x.size // BLOCK), BLOCK))
    blocks = list(map(run, padded))
    value, slope = (
      np.concatenate([np.asarray(block[i]) for block in blocks])
      for i in range(2)
    )
    return value[: x.size].reshape(x.shape), slope[: x.size].reshape(x.shape)

  _check_elementwise(traced, evaluate)
  return evaluate


@functools.lru_cache(maxsize=64)
def compiled(traced: TracedActivation) -> Evaluate:
  """`evaluator` for millions of points: compiles first, then 5 times faster.

  Must run inside `in_float64`.
  """
  evaluator(traced)  # checks that φ is elementwise
  run = _run(traced, _LARGE_BLOCK)

  def evaluate(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = x.ravel()
    value, slope = np.empty(x.size), np.empty(x.size)
    for i in range(0, x.size, _LARGE_BLOCK):
      block = flat[i : i + _LARGE_BLOCK]
      parts = run(np.resize(block, _LARGE_BLOCK))
      for part, out in zip(parts, (value, slope), strict=True):
        out[i : i + block.size] = np.asarray(part)[: block.size]
    return value.reshape(x.shape), slope.reshape(x.shape)

  return evaluate


def _run(traced: TracedActivation, size: int) -> Callable[..., Any]:
  """One program: JAX would compile each primitive that is run by itself."""
  from jax.extend.core import jaxpr_as_fun

  return jax.jit(jaxpr_as_fun(_slope_jaxpr(traced, size)))


def _slope_jaxpr(traced: TracedActivation, size: int) -> Any:
  """Of φ and φ', in float64 whatever φ casts to."""
  return widened(_with_slope_jaxpr(traced.name, traced.function, size))


def _with_slope_jaxpr(name: str, function: Activation, size: int) -> Any:
  points = jax.ShapeDtypeStruct((size,), np.float64)
  try:
    return jax.make_jaxpr(_with_slope(function))(points)
  except Exception as error:  # of a rule of derivatives, or for want of one
    reason = str(error).split("\n", maxsplit=1)[0]
    raise ValueError(
      f"{name} has no derivative in JAX: {reason} Declare one by "
      "jax.custom_jvp."
    ) from error


def _with_slope(activation: Activation) -> Callable[[jax.Array], Any]:
  def real(x: jax.Array) -> jax.Array:
    return jnp.asarray(activation(x)).astype(jnp.float64)

  def value_and_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    try:  # first reverse mode, the only one that a custom_vjp function knows
      value, pull_back = jax.vjp(real, x)
      return value, pull_back(jnp.ones_like(x))[0]
    except ValueError:  # a while_loop knows forward mode only
      return jax.jvp(real, (x,), (jnp.ones_like(x),))

  return value_and_slope


def _check_output(name: str, out: Any) -> None:
  if getattr(out, "shape", None) != (BLOCK,):
    shapes = [leaf.shape for leaf in jax.tree.leaves(out)]
    raise ValueError(
      f"{name} is not elementwise: for one array of shape ({BLOCK},) it "
      f"returned {shapes}. Pass a function of one scalar, such as jax.nn.relu."
    )
  if jnp.issubdtype(out.dtype, jnp.complexfloating):
    raise ValueError(f"{name} returns complex numbers; its gain is undefined.")


def _check_elementwise(traced: TracedActivation, evaluate: Any) -> None:
  """Raises if a value depends on the neighbours of its argument."""
  points = np.linspace(-4.0, 4.0, BLOCK) + 0.001
  companions = np.linspace(5.0, -5.0, BLOCK) + 0.003
  companions[: BLOCK // 2] = points[: BLOCK // 2]
  together, _ = evaluate(points)
  others, _ = evaluate(np.roll(companions, 7))
  moved = np.roll(others, -7)[: BLOCK // 2]
  same = np.isclose(moved, together[: BLOCK // 2], rtol=1e-9, atol=1e-12)
  both_nan = np.isnan(moved) & np.isnan(together[: BLOCK // 2])
  if not np.all(same | both_nan):
    raise ValueError(
      f"{traced.name} is not elementwise: a value changes with "
      "its neighbours (as in softmax or a normalization), so no gain exists."
    )


def _all_constants(jaxpr: Any) -> Iterator[Any]:
  """The constants of a closed jaxpr and of every jaxpr inside it."""
  yield from jaxpr.consts
  for equation in jaxpr.eqns:
    for value in equation.params.values():
      for inner in value if isinstance(value, (tuple, list)) else (value,):
        if hasattr(inner, "consts") and hasattr(inner, "eqns"):
          yield from _all_constants(inner)


def _fingerprint(constant: Any) -> Any:
  """A hashable stand-in for an array constant (or the object itself)."""
  if jax.dtypes.issubdtype(jnp.result_type(constant), jax.dtypes.extended):
    constant = jax.random.key_data(constant)
  array = np.asarray(constant)
  return array.shape, array.dtype.name, array.tobytes()


def name_of(activation: Any) -> str:
  """How errors call an activation."""
  while isinstance(activation, functools.partial):
    activation = activation.func
  name = getattr(activation, "__name__", type(activation).__name__)
  return f"activation {name}"
