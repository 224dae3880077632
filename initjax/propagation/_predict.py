"""`predict`: how large the rows of a report should be, by theory alone.

Walking the rows in the order of execution gives the second moment of each;
walking back along the same edges gives the gradient's.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from initjax._checks import check_number
from initjax.graph import (
  SignalGraph,
  Term,
  as_function,
  signal_graph,
  terms_within,
  with_advice,
)
from initjax.measurement import (
  Leaves,
  arrays_of,
  kernel_variance,
  known_of,
  mean_square_at,
)
from initjax.propagation._walk import Signal, Walk


class Prediction(NamedTuple):
  """What theory expects of each row of a report, in order of execution.

  Rows are those of `report.to_records()`; NaN is "unknown".
  """

  forward: np.ndarray
  """[rows]: log₂ second moment of the operation's output, before its bias"""
  backward: np.ndarray
  """[rows]: log₂ second moment of an element of the gradient with respect to
  it, against that of the last row"""
  silent: tuple[str, ...] = ()
  """[rows]: why theory stops there, at a function without the moments that it
  needs; "" elsewhere"""


@with_advice
def predict(
  fn: Callable[..., object],
  params: object,
  *inputs: object,
  second_moment: float = 1.0,
) -> Prediction:
  """Predicts signal and gradient of a model at infinite width.

  With the weights as they are, σ_w² = mean square × fan_in, an operation fed by
  φ(h) gives

      E[z²] = σ_w²·E[φ(√q ζ)²],  q = E[h²],  ζ ~ N(0, 1)

  where h is a sum of independent terms: outputs of earlier operations, biases,
  the stream before (residual networks), products φ(h₁)·ψ(h₂) of branches with
  kernels of their own (gated units), each by its factor; or that sum
  normalized, over units (q = 1) or over samples (their mean is taken away).
  The gradient runs back along the same edges, times Var(W)·fan_out·E[φ'²].

  What theory does not follow is unknown: softmax, pooling, an activation of a
  product or without Gaussian moments (`silent` says why), kernels of nonzero
  mean or made of several; of the gradient, all that lies before such a place.
  Biases and scales count with their root mean square, under a scan over all
  repeats.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: its parameters, with values; none for a module that holds them.
    *inputs: its other arguments; shapes are enough.
    second_moment: of the inputs, > 0.

  Raises:
    TypeError: if `fn` is neither a function nor a module, or parameters have no
      values.
    ValueError: if `second_moment` is no such number.

  >>> import jax, jax.numpy as jnp
  >>> def mlp(kernels, x):
  ...   first, second = kernels
  ...   return jax.nn.relu(x @ first) @ second
  >>> he = jax.nn.initializers.he_normal()
  >>> key = jax.random.key(0)
  >>> kernels = he(key, (256, 256)), he(key, (256, 256))
  >>> predict(mlp, kernels, jnp.ones((1, 256))).forward.round(1)
  array([1., 1.])

  Reference: Schoenholz et al. 2017, Eqs. 3, 9; Yang and Schoenholz 2017.
  """
  check_number("second_moment", second_moment, low=0, open_low=True)
  fn, params, inputs, _ = as_function(fn, params, inputs)
  leaves, graph = arrays_of(params), signal_graph(fn, params, *inputs)
  return predict_rows(graph, leaves, inputs, second_moment)


def predict_rows(
  graph: SignalGraph, leaves: Leaves, inputs: Any, second_moment: float
) -> Prediction:
  """`predict`, for parameters by path."""
  known = known_of(graph, leaves, inputs)
  walk = Walk(
    functools.partial(mean_square_at, known),
    second_moment,
    assumes=False,
    over_samples=any(term.over == "samples" for term in _terms(graph)),
    tape=[],
  )
  rows, silent = [], []
  for _, op, repeat in graph.rows:
    walk.failure = ""
    variance = kernel_variance(op, repeat, leaves)
    rows.append(walk.put(op, walk.fed(op, repeat), variance))
    silent.append(walk.failure)
  forward, backward = [row.size for row in rows], _gradients(walk, rows, graph)
  with np.errstate(divide="ignore", invalid="ignore"):
    return Prediction(np.log2(forward), np.log2(backward), tuple(silent))


def _terms(graph: SignalGraph) -> list[Term]:
  """All that operations are fed; what cannot be said is one unknown term."""
  feeds = (f for op in graph.ops for f in (op.feed, op.later_feed) if f)
  streams = [feed.stream for feed in feeds if not feed.from_outside]
  unknown = (Term("unknown"),)
  return [
    term
    for stream in streams
    for term in terms_within(unknown if stream is None else stream)
  ]


def _gradients(
  walk: Walk, rows: Sequence[Signal], graph: SignalGraph
) -> list[float]:
  """E[δ²] of each row, 1 at the last; only that one if a part is unknown."""
  if not rows:
    return []
  if graph.output is None:
    rows[-1].gradient = 1.0
  else:  # streams that reach the output beside the last row
    site = graph.ops[-1].place.site
    walk.total(graph.output, site).gradient = 1.0
  # Backwards, all that a signal feeds has handed on its gradient before it.
  for signal in reversed(walk.tape or ()):
    if signal.parts and math.isnan(signal.gradient):
      continue  # its parts are fed to others, and not the whole
    for below, factor in signal.edges:
      given = signal.gradient * factor
      first = math.isnan(below.gradient)
      below.gradient = given if first else below.gradient + given
  known = all(term.kind != "unknown" for term in _terms(graph))
  complete = known and not graph.opaque and not graph.not_followed
  complete &= not any(np.dtype(op.dtype).kind == "c" for op in graph.ops)
  if complete and rows[-1].gradient:
    return [
      math.nan  # of a table of positions it adds up over samples, as they are
      if op.feed.reason == "positions"
      else row.gradient / rows[-1].gradient
      for row, (_, op, _) in zip(rows, graph.rows, strict=True)
    ]
  return [*(math.nan for _ in rows[:-1]), 1.0]
