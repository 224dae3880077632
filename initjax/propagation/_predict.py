"""`predict`: how large the rows of a report should be, by theory alone.

The graph says of each operation which stream feeds it: a sum of outputs, biases
and earlier streams, perhaps normalized. Walking the rows in the order of
execution gives the second moment of each; walking back gives the gradient's.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from initjax._checks import check_number
from initjax.gains import joint_moments, moments
from initjax.graph import LinearOp, SignalGraph, signal_graph
from initjax.graph._graph import Image, Site, Stream, Term, terms_within
from initjax.graph._recovered import identity
from initjax.measurement import (
  Leaves,
  arrays_of,
  kernel_variance,
  mean_square_at,
)
from initjax.propagation._response import THEORY_FAILS, response
from initjax.typing import Activation


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


def predict(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
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
    fn: a function of parameters and inputs, such as `model.apply`.
    params: its parameters, with values.
    *inputs: its other arguments; shapes are enough.
    second_moment: of the inputs, > 0.

  Raises:
    TypeError: if `fn` is not callable, or parameters have no values.
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
  leaves = arrays_of(params)
  return predict_rows(signal_graph(fn, params, *inputs), leaves, second_moment)


def predict_rows(
  graph: SignalGraph, leaves: Leaves, second_moment: float
) -> Prediction:
  """`predict`, for parameters by path."""
  over_samples = any(map(_over_samples, _streams(graph)))
  walk = _Walk(leaves, second_moment, over_samples)
  rows, silent = [], []
  for _, op, repeat in graph.rows:
    walk.silent = ""
    rows.append(walk.run(op, repeat))
    silent.append(walk.silent)
  forward = [row.size for row in rows]
  complete = not graph.opaque and all(map(_is_known, _streams(graph)))
  complete &= not any(np.dtype(op.dtype).kind == "c" for op in graph.ops)
  backward = walk.gradients(rows, graph, is_complete=complete)
  with np.errstate(divide="ignore", invalid="ignore"):
    return Prediction(np.log2(forward), np.log2(backward), tuple(silent))


def _streams(graph: SignalGraph) -> list[Stream | None]:
  """Those that feed an operation."""
  feeds = (f for op in graph.ops for f in (op.feed, op.later_feed) if f)
  inputs = ("input", "indices", "constant")
  return [feed.stream for feed in feeds if feed.reason not in inputs]


def _is_known(stream: Stream | None) -> bool:
  terms = terms_within(stream)
  return stream is not None and all(term.kind != "unknown" for term in terms)


def _over_samples(stream: Stream | None) -> bool:
  return any(
    term.kind == "normalized" and term.over == "samples"
    for term in terms_within(stream)
  )


@dataclasses.dataclass(eq=False)
class _Signal:
  """A signal h; its second moment is NaN if it is not known."""

  size: float
  """E[h²]"""
  mean: float = 0.0
  """E[h]"""
  shared: float = 0.0
  """E[h_a·h_b] of two samples"""
  gaussian: bool = True
  edges: tuple[tuple["_Signal", float], ...] = ()
  """what it is made of, and the gradient's factor going back"""
  gradient: float = math.nan
  """E[δ²], summed over what it feeds; NaN if it feeds nothing"""

  @property
  def in_reach(self) -> bool:
    """Whether Gaussian moments of a function of it can be computed."""
    return self.gaussian and 1e-300 < self.size < 1e300


@dataclasses.dataclass
class _Walk:
  """The latest signals at each site, while rows are run in order."""

  leaves: Leaves
  second_moment: float
  over_samples: bool
  """whether something is normalized over samples, so that it matters what
  these share"""
  silent: str = ""
  """what the latest function without moments lacks"""
  tape: list[_Signal] = dataclasses.field(default_factory=list)
  outputs: dict[Site, _Signal] = dataclasses.field(default_factory=dict)
  streams: dict[Site, _Signal] = dataclasses.field(default_factory=dict)
  inners: dict[Site, _Signal] = dataclasses.field(default_factory=dict)

  def run(self, op: LinearOp, repeat: tuple[int, ...]) -> _Signal:
    """The output of one row."""
    feed, site = op.feed_at(repeat), op.place.site
    weights = kernel_variance(op, repeat, self.leaves)
    if op.kind == "embedding":
      output = self._note(_Signal(weights))
    elif feed.stream is None:
      output = self._note(_Signal(math.nan))
    else:
      stream = self.streams[site] = self._sum(feed.stream, site)
      fed = self._fed(feed.activation, stream)
      output = self._note(_weighted(fed, op, weights))
    self.outputs[site] = output
    return output

  def _fed(self, phi: Activation | None, stream: _Signal) -> "_Fed":
    """Of a stream under φ."""
    if phi is None or phi is identity:
      return _Fed(stream, stream.size, stream.shared, 1.0)
    unknown = _Fed(stream, *[math.nan] * 3)
    if not stream.in_reach:
      return unknown
    try:
      here = response(phi)(math.log2(stream.size))
      return _Fed(
        stream,
        2.0**here.log2_second_moment,
        self._shared(stream, phi),
        2.0**here.log2_derivative,
      )
    except THEORY_FAILS as error:
      self.silent = str(error)
      return unknown

  def _shared(self, stream: _Signal, phi: Activation) -> float:
    """E[φ(h_a)·φ(h_b)]."""
    if not self.over_samples:
      return 0.0
    correlation = float(np.clip(stream.shared / stream.size, -1.0, 1.0))
    if correlation == 0:
      mean = self._mean(phi, stream)
      return mean * mean
    if math.isnan(correlation):
      return math.nan
    return float(joint_moments(phi, correlation, stream.size).product)

  def _mean(self, phi: Activation | None, stream: _Signal) -> float:
    """E[φ(h)]; of few signals, since no table holds it."""
    if phi is None or phi is identity:
      return stream.mean
    if not stream.in_reach:
      return math.nan
    try:
      return float(moments(phi, stream.size).mean)
    except THEORY_FAILS as error:
      self.silent = str(error)
      return math.nan

  def _note(self, signal: _Signal) -> _Signal:
    self.tape.append(signal)
    return signal

  def _sum(self, stream: Stream, site: Site) -> _Signal:
    parts = [(self._signal(term, site), self._root(term)) for term in stream]
    mean = sum(part.mean * root for part, root in parts)
    apart = sum((p.size - p.mean * p.mean) * r * r for p, r in parts)
    shared = sum((p.shared - p.mean * p.mean) * r * r for p, r in parts)
    return self._note(
      _Signal(
        apart + mean * mean,
        mean,
        shared + mean * mean,
        all(part.gaussian for part, _ in parts),
        tuple((part, root * root) for part, root in parts),
      )
    )

  def _root(self, term: Term) -> float:
    """What multiplies a term; parameters count as their root mean square."""
    scales = (mean_square_at(self.leaves, path) for path in term.scales)
    return term.factor * math.sqrt(math.prod(scales))

  def _signal(self, term: Term, site: Site) -> _Signal:
    if term.kind == "bias":
      size = mean_square_at(self.leaves, term.path)
      return _Signal(size, shared=size)
    if term.kind == "input":
      return _Signal(self.second_moment, gaussian=False)
    if term.kind == "normalized":
      inner = self.inners[site] = self._sum(term.inner, site)
      return self._note(_normalized(inner, term.over))
    if term.kind == "product":
      return self._note(self._product(term.images, site))
    if term.kind == "unknown":
      return _Signal(math.nan)
    known = {
      "output": self.outputs, "stream": self.streams, "inner": self.inners
    }  # fmt: skip
    return known[term.kind].get(term.site) or _Signal(math.nan)

  def _product(self, images: tuple[Image, ...], site: Site) -> _Signal:
    """Of independent images: moments multiply."""
    fed = [
      self._fed(image.activation, self._sum(image.stream, site))
      for image in images
    ]
    sizes = [each.size for each in fed]
    edges = []
    for place, (each, image) in enumerate(zip(fed, images, strict=True)):
      others = math.prod(sizes[:place] + sizes[place + 1 :])
      edges.append((each.source, image.share * each.slope * others))
    return _Signal(
      math.prod(sizes),
      math.prod(
        self._mean(image.activation, each.source)
        for each, image in zip(fed, images, strict=True)
      ),
      math.prod(each.shared for each in fed),
      gaussian=False,
      edges=tuple(edges),
    )

  def gradients(
    self, rows: Sequence[_Signal], graph: SignalGraph, *, is_complete: bool
  ) -> list[float]:
    """E[δ²] of each row, 1 at the last."""
    if not rows:
      return []
    if graph.output is None:
      rows[-1].gradient = 1.0
    else:  # streams that reach the output beside the last row
      self._sum(graph.output, graph.ops[-1].place.site).gradient = 1.0
    for signal in reversed(self.tape):
      for below, factor in signal.edges:
        given = signal.gradient * factor
        known = not math.isnan(below.gradient)
        below.gradient = below.gradient + given if known else given
    if is_complete and rows[-1].gradient:
      return [row.gradient / rows[-1].gradient for row in rows]
    return [*(math.nan for _ in rows[:-1]), 1.0]


class _Fed(NamedTuple):
  """φ(h) of a source h."""

  source: _Signal
  size: float
  """E[φ²]"""
  shared: float
  """E[φ(h_a)·φ(h_b)] of two samples"""
  slope: float
  """E[φ'²]"""


def _weighted(fed: _Fed, op: LinearOp, weights: float) -> _Signal:
  """W·φ(h); `weights` is the variance of W."""
  sigma_w2 = weights * op.fan_in
  return _Signal(
    sigma_w2 * fed.size,
    shared=sigma_w2 * fed.shared,
    edges=((fed.source, weights * op.fan_out * fed.slope),),
  )


def _normalized(inner: _Signal, over: str) -> _Signal:
  """Of unit second moment; over samples, without what these share."""
  variance = inner.size - (inner.shared if over == "samples" else 0.0)
  if variance <= 0:
    return _Signal(math.nan, edges=((inner, math.nan),))
  shared = 0.0 if over == "samples" else inner.shared / variance
  return _Signal(1.0, shared=shared, edges=((inner, 1 / variance),))
