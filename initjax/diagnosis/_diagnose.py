"""`diagnose`: what is wrong with a model, why, and the line that fixes it."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from initjax._statistics import nan_is_unknown
from initjax.diagnosis._copies import check_copies
from initjax.diagnosis._embeddings import check_embeddings
from initjax.diagnosis._growth import check_growth
from initjax.diagnosis._inputs import (
  OF_INPUTS,
  check_inputs,
  nonfinite_inputs,
  unexplained,
)
from initjax.diagnosis._no_gradient import check_no_gradient, still
from initjax.diagnosis._nonfinite import check_nonfinite
from initjax.diagnosis._observe import Call, Observed, observe, observed_of
from initjax.diagnosis._odd_layers import check_layers
from initjax.diagnosis._parameters import check_parameters, check_values
from initjax.diagnosis._signals import check_signals
from initjax.graph import Row, as_function, with_advice
from initjax.measurement import SignalReport, arrays_of, mean_square, measure
from initjax.propagation import predict_rows
from initjax.reports import nothing_judged, ordered
from initjax.typing import Verdict

_SIGMAS = 3.0  # of the band of what a healthy network may show


@with_advice
@nan_is_unknown()
def diagnose(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  key: jax.Array | None = None,
  cotangent: Any = None,
  has_aux: bool = False,
  init: Callable[[jax.Array], Any] | None = None,
  draws: int | None = None,
) -> SignalReport:
  """Measures a model and judges it: exploding, vanishing, dead, saturated, ...

  Each verdict states what was measured, what it was compared with, the cause,
  and what to paste or change. Growth counts as sick only if it exceeds what
  chance produces at these widths: for a single draw, according to the law of
  finite width; for several draws, according to their scatter. `diagnose` runs
  `fn` itself, under jit; do not call it inside jit.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: any pytree of arrays; ignored if `init` is given. If `fn` is a
      module that holds its parameters, omit `params` and pass the inputs
      directly.
    *inputs: the other arguments of `fn`.
    key: for the random cotangent, and for `init`.
    cotangent: the gradient with respect to the outputs, with their structure.
    has_aux: whether `fn` returns `(outputs, aux)`.
    init: a function from a key to parameters, for several draws. For a module
      that holds its parameters, it returns
      parameters like `initjax.functional(module)[1]`.
    draws: how many draws of `init` to take (8 if None); without `init`, the
      length of the leading axis of every leaf of `params`.

  Returns:
    A report with `verdicts`, worst first: `print` it, or use `to_html` or
    `plot`. `unjudged` names the rows whose growth could not be judged, and why.
    `judged` is False if there was nothing to judge: no linear operation that
    uses a parameter was seen, or none had a sample.

  Raises:
    TypeError: if `fn` is neither a function nor a module.
    ValueError: if no output can be differentiated, or leaves of `params` do
      not have a leading axis of length `draws`.

  >>> import jax.numpy as jnp
  >>> def deep(kernels, x):
  ...   layer = lambda h, kernel: (jax.nn.relu(h @ kernel), None)
  ...   return jax.lax.scan(layer, x, kernels)[0]
  >>> xavier = jax.nn.initializers.xavier_normal(batch_axis=0)
  >>> kernels = xavier(jax.random.key(0), (50, 64, 64))
  >>> x = jax.random.normal(jax.random.key(1), (8, 64))
  >>> report = diagnose(deep, kernels, x)
  >>> [verdict.kind for verdict in report.verdicts]
  ['vanishing signal', 'vanishing gradient']
  >>> print(report.verdicts[0].fix)
  kernel_init=initjax.initializers.he_normal()
  # with batch_axis=0 if all layers are drawn as one array

  Reference: Glorot and Bengio 2010; He et al. 2015; Hanin and Nica 2020.
  """
  fn, params, inputs, _ = as_function(fn, params, inputs)
  options = {"key": key, "cotangent": cotangent, "has_aux": has_aux}
  observed = observe(fn, params, inputs, **options, init=init, draws=draws)
  return dataclasses.replace(
    observed.report,
    verdicts=verdicts_on(observed, inputs),
    bands=_bands(observed),
    predicted=_predicted(observed, inputs),
    unjudged=tuple(observed.parts.unjudged.items()),
    judged=not nothing_judged(observed.found.forward.size.tolist()),
    about=_about(fn, observed, inputs),
  )


def _about(
  fn: Any, observed: Observed, inputs: Any
) -> tuple[tuple[str, str], ...]:
  """The function's name, the inputs' shapes, how many parameters and draws."""
  leaves = jax.tree.leaves(inputs)
  shapes = (f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in leaves)
  count = sum(leaf.size for leaf in observed.leaves.values())
  draws = len(observed.found.log2_moments["forward"])
  return (
    ("model", getattr(fn, "__qualname__", type(fn).__name__)),
    ("inputs", ", ".join(shapes)),
    ("parameters", f"{count:,}"),
    *([("draws", str(draws))] if draws > 1 else []),
  )


def verdicts_on(observed: Observed, inputs: Any) -> tuple[Verdict, ...]:
  """All that is wrong, worst first."""
  found, leaves = observed.found, observed.leaves
  of_inputs = [
    *nonfinite_inputs(observed, inputs),
    *check_inputs(observed, inputs),
  ]
  of_signals = [
    *check_growth(observed),
    *check_layers(observed),
    *check_embeddings(found),
    *check_nonfinite(observed),
    *check_signals(found, leaves),
  ]
  if not any("underflows" in verdict.kind for verdict in of_signals):
    of_signals += check_no_gradient(observed)
  of_inputs += [v for v in of_signals if v.kind in OF_INPUTS]
  verdicts = [
    *of_inputs,
    *check_values("parameter", leaves),
    *unexplained(of_signals, of_inputs),
    *check_copies(found.graph, leaves, still(observed)),
    *check_parameters(found.graph, leaves),
  ]
  verdicts = [_with_rows(verdict, found.rows) for verdict in verdicts]
  return tuple(ordered(verdicts))


def verdicts_of_draws(
  fn: Callable[..., Any],
  init: Callable[[jax.Array], Any],
  keys: jax.Array,
  *inputs: Any,
) -> list[tuple[Verdict, ...]]:
  """Returns the verdicts on each draw, measuring all draws in one program.

  Use it for rates of false alarms and of detection on your own model. In
  contrast, `diagnose(init=, draws=)` judges several draws together.

  Args:
    fn: a function of parameters and inputs.
    init: a function from a key to parameters.
    keys: [draws], each for the parameters and a random cotangent.
    *inputs: the other arguments of `fn`.

  >>> init = lambda key: jax.random.normal(key, (16, 16)) / 4
  >>> keys = jax.random.split(jax.random.key(0), 3)
  >>> x = jax.random.normal(jax.random.key(1), (16, 8))
  >>> [len(each) for each in verdicts_of_draws(jnp.matmul, init, keys, x)]
  [0, 0, 0]

  Reference: as `diagnose`.
  """

  def one(key: jax.Array) -> Any:
    params = init(key)
    return measure(fn, params, *inputs, key=key, detail=True), params

  drawn = jax.device_get(jax.jit(functools.partial(jax.lax.map, one))(keys))
  verdicts = []
  for draw in range(len(keys)):
    report, params = jax.tree.map(operator.itemgetter(draw), drawn)
    options = {"key": keys[draw], "cotangent": None, "has_aux": False}
    observed = observed_of(report, Call(fn, params, inputs, options))
    verdicts.append(verdicts_on(observed, inputs))
  return verdicts


def _with_rows(verdict: Verdict, rows: Sequence[Row]) -> Verdict:
  """What concerns a parameter concerns the rows that use it."""
  if verdict.rows or not verdict.path:
    return verdict
  uses = (i for i, row in enumerate(rows) if row.op.path == verdict.path)
  return verdict._replace(rows=tuple(uses))


def _bands(observed: Observed) -> tuple[Any, ...]:
  """What healthy chains that start likewise may show; of other rows None."""
  if not observed.chains:
    return ()
  both: list[list[Any]] = []
  for direction, bits in observed.found.log2_moments.items():
    band: list[Any] = [None] * bits.shape[1]
    for chain in observed.chains:
      drift = observed.drift(chain, direction, None)
      if drift is None:  # theory is silent on its activations
        continue
      plain = bits.mean(axis=0)[list(chain.rows)]
      middle = drift.expected + plain - drift.measured
      margin = drift.margin(_SIGMAS)
      low, high = (middle - margin).tolist(), (middle + margin).tolist()
      for row, *ends in zip(chain.rows, low, high, strict=True):
        band[row] = tuple(ends)
    both.append(band)
  return tuple(zip(*both, strict=True))


def _predicted(observed: Observed, inputs: Any) -> tuple[Any, ...]:
  """What theory predicts for these weights, from what went in and came back."""
  graph, leaves = observed.report.graph, enumerate(jax.tree.leaves(inputs))
  data = [leaf for at, leaf in leaves if at not in graph.statistics]
  squares = map(mean_square, arrays_of(data).values())
  size = next((square for square in squares if square > 0), 1.0)
  theory = predict_rows(graph, observed.leaves, inputs, size)
  start = observed.found.log2_moments["backward"].mean(axis=0)[-1:]
  forward, backward = (
    [x if math.isfinite(x) else None for x in column.tolist()]
    for column in (theory.forward, theory.backward + start)
  )
  return tuple(zip(forward, backward, theory.silent, strict=True))
