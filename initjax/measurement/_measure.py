"""`measure`: the size of every signal in a model, forward and backward."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from initjax._checks import check_key
from initjax._executables import execute
from initjax._paths import is_float, paths_of
from initjax._statistics import (
  nan_is_unknown,
)
from initjax.graph import (
  Site,
  Slot,
  Trace,
  Use,
  as_function,
  run,
  trace,
  with_advice,
)
from initjax.measurement._by_segments import passes_by_segments
from initjax.measurement._cotangent import cotangent_of, differentiable
from initjax.measurement._leaves import check_arrays
from initjax.measurement._norms import Norms, norms_of
from initjax.measurement._report import SignalReport
from initjax.measurement._sliced import gradients_by_path, with_parts
from initjax.measurement._watch import Seen, Watch, partial_sums, watch


class Measured(NamedTuple):
  """A report, with the outputs and gradients of the same two passes."""

  report: SignalReport
  outputs: Any
  """the outputs of `fn`, aux included"""
  gradients: Any
  """the gradient of the loss with respect to `params`"""


@with_advice
@nan_is_unknown()
def measure(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  key: jax.Array | None = None,
  cotangent: Any = None,
  has_aux: bool = False,
  detail: bool = False,
) -> SignalReport:
  """Measures every linear operation of `fn(params, *inputs)`.

  Runs one forward and one backward pass and keeps nothing but sums; without
  `detail`, no parameter gradient is computed. Works inside `jit` and `vmap`
  and on sharded arrays; the model is neither changed nor hooked.

  A scalar output is taken as a loss and differentiated. Otherwise the gradient
  of the outputs is `cotangent`, or independent N(0, 1) numbers from `key`.

  A call with its own derivative rule is measured once, at its output. While
  loops have no gradient, so operations inside them are not measured. Inside a
  shard_map each operation is that of a shard, and the only detail is the norms.
  With `check_vma=False`, JAX does not know which arrays are equal on several
  devices, so each copy is counted.

  Jitted, an unrolled model takes 2.5 to 3 times as long to compile as its
  gradient, since XLA shares no sums between layers: of 40 dense layers on a
  CPU, each takes 3 ms for the gradient and 16 ms with its sums in both
  directions; tracing takes the same. In a scan over layers they are compiled
  once, and `diagnose` compiles layers that are equal once.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: any pytree of arrays. Omit it for a module that holds its own
      parameters.
    *inputs: the other arguments of `fn`.
    key: for the random cotangent; `jax.random.key(0)` if None.
    cotangent: gradient with respect to the outputs, with their structure.
    has_aux: whether `fn` returns `(outputs, aux)`; aux has no gradient.
    detail: also count the units that are 0 on every sample, and report the mean
      cosine between samples, E|φ'| of the activation that feeds an operation,
      and the norm of each parameter's gradient (which is then computed).

  Raises:
    TypeError: if `fn` is not a function or a module, or an array is abstract.
    ValueError: if no output can be differentiated, or the cotangent does not
      fit the outputs.

  >>> def mlp(params, x):
  ...   return jax.nn.relu(x @ params["first"]) @ params["second"]
  >>> params = {"first": jnp.ones((3, 8)), "second": jnp.ones((8, 2))}
  >>> report = measure(mlp, params, jnp.ones((5, 3)))
  >>> [round(2 ** float(row.log2_second_moment)) for row in report.forward]
  [9, 576]
  """
  options = {"key": key, "cotangent": cotangent, "has_aux": has_aux}
  return _measured(fn, params, inputs, **options, detail=detail).report


@with_advice
@nan_is_unknown()
def measure_and_grad(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  key: jax.Array | None = None,
  cotangent: Any = None,
  has_aux: bool = False,
  detail: bool = False,
) -> Measured:
  """Runs `measure` and returns the outputs and the gradient as well.

  Both share the same two passes, so monitoring costs only the statistics.

  Args:
    fn: a function of parameters and inputs, such as a loss, or a module.
    params: any pytree of arrays. Omit it for a module that holds its own; its
      gradient is that of the parameters of `initjax.functional`.
    *inputs: the other arguments of `fn`.
    key: as in `measure`, as are all other options.
    cotangent: the gradient with respect to the outputs.
    has_aux: whether `fn` returns `(outputs, aux)`.
    detail: whether to measure further statistics.

  Raises:
    TypeError: if `fn` is not a function or a module, or an array is abstract.
    ValueError: if no output can be differentiated, or the cotangent does not
      fit the outputs.

  >>> loss = lambda params, x: jnp.mean((x @ params) ** 2)
  >>> measured = measure_and_grad(loss, jnp.ones((2, 1)), jnp.ones((4, 2)))
  >>> measured.outputs, measured.gradients.ravel()
  (Array(4., dtype=float32), Array([4., 4.], dtype=float32))
  """
  options = {"key": key, "cotangent": cotangent, "has_aux": has_aux}
  return _measured(fn, params, inputs, **options, detail=detail, grad=True)


def _measured(
  fn: Callable[..., Any],
  params: Any,
  inputs: tuple[Any, ...],
  *,
  key: jax.Array | None,
  cotangent: Any,
  has_aux: bool,
  detail: bool,
  grad: bool = False,
) -> Measured:
  """Without `grad` or `detail`, no gradient of a parameter is computed."""
  if key is not None:
    check_key(key)
  fn, params, inputs, _ = as_function(fn, params, inputs)
  check_arrays(params)
  check_arrays(inputs)
  start = lambda outputs: cotangent_of(outputs, cotangent, key)
  traced = trace(fn, params, *inputs)
  return _passes(traced, params, inputs, start, has_aux, detail, grad)


def _passes(
  traced: Trace,
  params: Any,
  inputs: tuple[Any, ...],
  start: Callable[[list[jax.Array]], list[jax.Array]],
  has_aux: bool,
  detail: bool,
  grad: bool,
) -> Measured:
  """Forward and back, from outputs to the gradients that `start` gives."""
  leaves, structure = jax.tree.flatten(params)
  watched, parts = watch(traced, detail), dict[int, Use]()
  if detail and not grad:
    watched, parts = with_parts(traced, watched, len(leaves))
  model = _instrumented(traced, watched, inputs, has_aux)
  moving = {at: x for at, x in enumerate(leaves) if at not in parts}
  out, pull_back, (outputs, found) = jax.vjp(
    lambda *by: model(by[0], [by[1].get(*each) for each in enumerate(leaves)]),
    *(watched.slots, moving if detail or grad else {}),
    has_aux=True,
  )
  backward, own = pull_back(start(out))
  norms = whole = None
  if detail:
    norms = norms_of(gradients_by_path(paths_of(params), own, parts, backward))
  if grad:
    whole = jax.tree.unflatten(structure, [*own.values()])
  return Measured(_report_of(traced, found, backward, norms), outputs, whole)


@nan_is_unknown()
def measure_detail(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  key: jax.Array | None = None,
  cotangent: Any = None,
  has_aux: bool = False,
) -> SignalReport:
  """`measure` with `detail=True`, compiled: what is equal, once.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: any pytree of arrays.
    *inputs: the other arguments of `fn`.
    key: as in `measure`, like all other options.
    cotangent: the gradient with respect to the outputs.
    has_aux: whether `fn` returns `(outputs, aux)`.

  Raises:
    ValueError: as `measure`.
  """
  fn, params, inputs, _ = as_function(fn, params, inputs)
  traced = trace(fn, params, *inputs)

  def start(flat: list[Any]) -> dict[int, jax.Array]:
    flat = [jnp.asarray(leaf) for leaf in flat]
    outputs = jax.tree.unflatten(jax.tree.structure(traced.out_shape), flat)
    main = outputs[0] if has_aux else outputs
    number = len(jax.tree.leaves(main))
    floats = [i for i in range(number) if is_float(flat[i])]
    # What is drawn would be a program for each step; what is given is none.
    begin = cotangent_of if cotangent is not None else _in_one_program
    gradients = begin(differentiable(main), cotangent, key)
    return dict(zip(floats, gradients, strict=True))

  def whole(params: Any, inputs: Any, key: Any, cotangent: Any) -> SignalReport:
    options = {"key": key, "cotangent": cotangent, "has_aux": has_aux}
    return measure(fn, params, *inputs, **options, detail=True)

  passes = passes_by_segments(traced, params, inputs, start)
  if passes is None:
    return execute(whole, params, inputs, key, cotangent)
  return _report_of(traced, *passes)


def _in_one_program(
  outputs: list[jax.Array], cotangent: None, key: jax.Array | None
) -> list[jax.Array]:
  return execute(cotangent_of, outputs, cotangent, key)


@nan_is_unknown()
def measure_traced(
  traced: Trace, params: Any, inputs: Any, *, backward: bool = True
) -> SignalReport:
  """`measure` of what has been traced and read already.

  Args:
    traced: the model.
    params: its parameters.
    inputs: all other arguments.
    backward: whether to measure gradients; else their tallies are empty.

  Raises:
    ValueError: if no output can be differentiated.
  """
  if not backward:
    watched = watch(traced, detail=False)
    given = _given(watched, watched.slots)
    arguments = jax.tree.leaves((params, inputs))
    _, found, _ = run(traced.jaxpr, arguments, watched.visitor, given)
    return _report_of(traced, found, watched.slots, None)
  watched = watch(traced, detail=False)
  model = _instrumented(traced, watched, inputs, has_aux=False)
  by_slots = lambda slots: model(slots, jax.tree.leaves(params))
  main, pull_back, (_, found) = jax.vjp(by_slots, watched.slots, has_aux=True)
  (gradients,) = pull_back(cotangent_of(main, None, None))
  return _report_of(traced, found, gradients, None)


def _given(watched: Watch, slots: Any) -> dict[Site, Slot]:
  blanks = watched.blanks.items()
  return {site: Slot(slots.get(site), blank) for site, blank in blanks}


def _instrumented(
  traced: Trace, watched: Watch, inputs: Any, has_aux: bool
) -> Callable[[Any, Any], Any]:
  """The function of (slots, leaves of params) that is to be differentiated."""
  others = jax.tree.leaves(inputs)

  def model(slots: Any, leaves: list[Any]) -> tuple[list[jax.Array], Any]:
    arguments = [*leaves, *others]
    given = _given(watched, slots)
    flat, found, _ = run(traced.jaxpr, arguments, watched.visitor, given)
    flat = [jnp.asarray(leaf) for leaf in flat]  # Python's numbers among them
    outputs = jax.tree.unflatten(jax.tree.structure(traced.out_shape), flat)
    main = outputs[0] if has_aux else outputs
    return differentiable(main), (outputs, found)

  return model


def _report_of(
  traced: Trace, found: dict[Site, Seen], backward: Any, norms: Norms | None
) -> SignalReport:
  seen = [found[site] for site in traced.ops]
  details = slopes = None
  if norms is not None:
    details = tuple(one.detail for one in seen if one.detail is not None)
    known = {at: s for one in found.values() for at, s in one.slopes.items()}
    slopes = tuple(
      (known.get((index, False)), known.get((index, True)))
      for index in range(len(seen))
    )
  return SignalReport(
    tuple(one.tally for one in seen),
    tuple(
      backward[site].shared(math.prod(partial_sums(op).values()))
      for site, op in traced.ops.items()
    ),
    details,
    slopes,
    norms,
    traced.graph,
  )
