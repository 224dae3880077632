"""Second moments of every signal, while kernels are given their variances.

Rows of the graph are run in the order of execution, as `predict` does, but
the weights are not known: each row asks for the variance that gives its own
output unit second moment, and what it is given decides what the next rows are
fed. What the graph does not say is taken to be 1, and the row says so.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from initjax.gains import moments
from initjax.graph import LinearOp
from initjax.graph._graph import Feed, Image, Site, Stream, Term
from initjax.graph._recovered import identity
from initjax.propagation._response import response
from initjax.typing import Activation

Direction = Literal["forward", "backward"]


class Signal(NamedTuple):
  """A signal h."""

  size: float = 1.0
  """E[h²]"""
  mean: float = 0.0
  """E[h]"""
  gaussian: bool = True
  stretch: float = 0.0
  """by what a relative change of size, somewhere before, is multiplied"""
  upstream: float = 0.0
  """the same, of changes before the latest operation"""
  slope: float = 1.0
  """d log E[h²] by that of what it is a product of"""
  gradient: float = 1.0
  """product of χ over the chain of layers that ends here"""
  layers: int = 0
  """of that chain"""
  doubt: str = ""
  """what was assumed"""


class Fed(NamedTuple):
  """What one row is fed, φ(h)."""

  source: Signal
  """h"""
  second_moment: float
  """E[φ(h)²]"""
  slope: float
  """d log E[φ²]/d log E[h²]"""
  derivative: float
  """E[φ'(h)²]; NaN if theory does not know it"""
  doubt: str
  """what was assumed of either"""

  @property
  def steepness(self) -> float:
    """By what a layer multiplies a relative change of what comes in."""
    return self.slope * self.source.slope


@dataclasses.dataclass
class Sizes:
  """The latest signals at each site, while rows are run in order."""

  mean_square: Callable[[str], float]
  """of a bias or a scale, by path"""
  input_size: float
  outputs: dict[Site, Signal] = dataclasses.field(default_factory=dict)
  streams: dict[Site, Signal] = dataclasses.field(default_factory=dict)
  inners: dict[Site, Signal] = dataclasses.field(default_factory=dict)

  def fed(self, op: LinearOp, repeat: tuple[int, ...]) -> Fed:
    """What feeds a row."""
    feed, site = op.feed_at(repeat), op.place.site
    if op.kind == "embedding":
      return Fed(Signal(), 1.0, 0.0, 1.0, "")
    if feed.reason == "constant":
      source = Signal(0.0)
    elif feed.stream is None:
      source = Signal(doubt=f"assumed unit second moment: {_words(feed)}")
    else:
      source = self.streams[site] = self._sum(feed.stream, op)
    return _through(feed.activation, source, op)

  def put(self, op: LinearOp, fed: Fed, variance: float | None) -> Signal:
    """Notes what a row puts out, for the variance of its operand's entries."""
    size = 1.0 if fed.second_moment else 0.0
    if variance is not None:
      size = variance * op.fan_in * fed.second_moment
    source = fed.source
    upstream = fed.slope * source.stretch
    output = Signal(size, stretch=max(1.0, upstream), upstream=upstream)
    chain = op.kind != "embedding" and math.isfinite(fed.derivative)
    if variance is not None and chain:
      chi = variance * op.fan_in * fed.derivative
      output = output._replace(
        gradient=chi * source.gradient if source.layers else 1.0,
        layers=source.layers + 1,
      )
    self.outputs[op.place.site] = output
    return output

  def _sum(self, stream: Stream, op: LinearOp) -> Signal:
    parts = [
      _times(self._root(term), self._signal(term, op)) for term in stream
    ]
    mean = sum(part.mean for part in parts)
    size = sum(part.size - part.mean**2 for part in parts) + mean**2
    doubts = dict.fromkeys(part.doubt for part in parts if part.doubt)
    signal = Signal(
      size,
      mean,
      all(part.gaussian for part in parts),
      _average([(part.stretch, part.size) for part in parts]),
      _average([(part.upstream, part.size) for part in parts]),
      _average([(part.slope, part.size) for part in parts]),
      doubt="; ".join(doubts),
    )
    chain = [t for t in zip(stream, parts, strict=True) if t[0].kind != "bias"]
    if len(chain) == 1 and chain[0][0].kind == "output":
      before = chain[0][1]
      return signal._replace(gradient=before.gradient, layers=before.layers)
    return signal

  def _root(self, term: Term) -> float:
    """What multiplies a term; parameters count as their root mean square."""
    squares = math.prod(map(self.mean_square, term.scales))
    return term.factor * math.sqrt(squares)

  def _signal(self, term: Term, op: LinearOp) -> Signal:
    if term.kind == "bias":
      return Signal(self.mean_square(term.path))
    if term.kind == "input":
      return Signal(self.input_size, gaussian=False)
    if term.kind == "normalized":
      self.inners[op.place.site] = self._sum(term.inner, op)
      return Signal()
    if term.kind == "product":
      return self._product(term.images, op)
    known = {
      "output": self.outputs, "stream": self.streams, "inner": self.inners
    }.get(term.kind, {})  # fmt: skip
    doubt = "assumed unit second moment: its source is not known"
    return known.get(term.site, Signal(doubt=doubt))

  def _product(self, images: tuple[Image, ...], op: LinearOp) -> Signal:
    """Of functions that are independent, given what feeds them all.

    A change before all of them acts through each; one of their own through one.
    """
    sources = [self._sum(image.stream, op) for image in images]
    activations = [image.activation for image in images]
    fed = [
      _through(phi, source, op)
      for phi, source in zip(activations, sources, strict=True)
    ]
    upstream = sum(each.slope * each.source.upstream for each in fed)
    own = max(each.slope * each.source.stretch for each in fed)
    doubts = dict.fromkeys(each.doubt for each in fed if each.doubt)
    return Signal(
      math.prod(each.second_moment for each in fed),
      math.prod(
        _mean(phi, source)
        for phi, source in zip(activations, sources, strict=True)
      ),
      gaussian=False,
      stretch=max(own, upstream),
      upstream=upstream,
      slope=sum(each.steepness for each in fed),
      doubt="; ".join(doubts),
    )


def _mean(phi: Activation, source: Signal) -> float:
  """E[φ(h)]."""
  if phi is identity:
    return source.mean
  try:
    return float(moments(phi, min(source.size, 1e300)).mean)
  except ValueError:
    return 0.0  # `_through` says that it is not known


def _times(root: float, signal: Signal) -> Signal:
  square = root**2
  return signal._replace(
    size=signal.size * square,
    mean=signal.mean * root,
    gradient=signal.gradient * square,
  )


def _average(parts: list[tuple[float, float]]) -> float:
  """Of values with weights."""
  total = sum(weight for _, weight in parts)
  return sum(x * weight for x, weight in parts) / total if total else 0.0


def _words(feed: Feed) -> str:
  """What a source is, where no more is known of it."""
  if feed.reason == "data product":
    return "product of two signals, as in attention"
  return feed.reason


def _through(phi: Activation | None, source: Signal, op: LinearOp) -> Fed:
  """Of φ(h), for the activation φ of a source h that feeds the operation."""
  q, doubt = source.size, source.doubt
  if not (q == 0 or 1e-300 < q < 1e300):
    q, doubt = 1.0, "assumed unit second moment: theory leaves float64"
  if phi is None or phi is identity:
    return Fed(source, q, 1.0, 1.0, doubt)
  if not source.gaussian:
    doubt = doubt or "an activation of inputs or products, taken as Gaussian"
  try:
    return Fed(source, *_response(phi, q), doubt)
  except ValueError as error:
    reason = str(error).split("; ")[0].split(". ")[0].rstrip(".")
    assumed = f"assumed unit second moment: {reason}"
    doubt = f"{doubt}; {assumed}" if doubt else assumed
    return Fed(source, 1.0, 1.0, math.nan, doubt)


def _response(phi: Activation, q: float) -> tuple[float, float, float]:
  """E[φ²], d log E[φ²]/d log q and E[φ'²] at the variance q."""
  if q == 0:
    at_zero = moments(phi, 0.0)
    slope = float(at_zero.derivative_second_moment)
    return float(at_zero.second_moment), 1.0, slope
  here = response(phi)(math.log2(q))
  infinite = here.log2_derivative > 1e3
  derivative = math.inf if infinite else 2.0**here.log2_derivative
  return 2.0**here.log2_second_moment, here.slope, derivative
