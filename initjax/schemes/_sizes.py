"""Second moments of every signal, while kernels are given their variances.

Rows of the graph are run in the order of execution, as `probes.predict` does,
but the weights are not known: each row asks for the variance that gives its own
output unit second moment, and what it is given decides what the next rows are
fed. What the graph does not say is taken to be 1, and the row says so.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from initjax.gains import moments
from initjax.probes._null import response
from initjax.tracing import LinearOp
from initjax.tracing._graph import Feed, Site, Stream, Term
from initjax.tracing._recovered import identity

Direction = Literal["forward", "backward"]


class Signal(NamedTuple):
  """A signal of zero mean."""

  size: float = 1.0
  """E[h²]"""
  stretch: float = 0.0
  """by what a relative change of size, somewhere before, is multiplied"""
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
  """E[φ'(h)²]"""
  doubt: str
  """what was assumed of either"""


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
      source = self.streams[site] = self._sum(feed.stream, site)
    return _through(op, feed, source)

  def put(self, op: LinearOp, fed: Fed, variance: float | None) -> Signal:
    """Notes what a row puts out, for the variance of its operand's entries."""
    size = 1.0 if fed.second_moment else 0.0
    if variance is not None:
      size = variance * op.fan_in * fed.second_moment
    source = fed.source
    output = Signal(size, max(1.0, fed.slope * source.stretch))
    chain = op.kind != "embedding" and math.isfinite(fed.derivative)
    if variance is not None and chain:
      chi = variance * op.fan_in * fed.derivative
      output = output._replace(
        gradient=chi * source.gradient if source.layers else 1.0,
        layers=source.layers + 1,
      )
    self.outputs[op.place.site] = output
    return output

  def _sum(self, stream: Stream, site: Site) -> Signal:
    parts = [(self._signal(term, site), self._square(term)) for term in stream]
    size = sum(part.size * square for part, square in parts)
    moved = sum(part.size * part.stretch * square for part, square in parts)
    doubts = dict.fromkeys(part.doubt for part, _ in parts if part.doubt)
    signal = Signal(
      size, moved / size if size else 0.0, doubt="; ".join(doubts)
    )
    chain = [t for t in zip(stream, parts, strict=True) if t[0].kind != "bias"]
    if len(chain) == 1 and chain[0][0].kind == "output":
      (before, square) = chain[0][1]
      return signal._replace(
        gradient=before.gradient * square, layers=before.layers
      )
    return signal

  def _square(self, term: Term) -> float:
    """By what a term's factors multiply its second moment."""
    return term.factor**2 * math.prod(map(self.mean_square, term.scales))

  def _signal(self, term: Term, site: Site) -> Signal:
    if term.kind == "bias":
      return Signal(self.mean_square(term.path))
    if term.kind == "input":
      return Signal(self.input_size)
    if term.kind == "normalized":
      self.inners[site] = self._sum(term.inner, site)
      return Signal()
    known = {
      "output": self.outputs, "stream": self.streams, "inner": self.inners
    }.get(term.kind, {})  # fmt: skip
    doubt = "assumed unit second moment: its source is not known"
    return known.get(term.site, Signal(doubt=doubt))


def _words(feed: Feed) -> str:
  """What a source is, where no more is known of it."""
  if feed.reason == "data product":
    return "product of two signals, as in attention"
  return feed.reason


def _through(op: LinearOp, feed: Feed, source: Signal) -> Fed:
  """Of φ(h), for the activation φ between the source h and the operation."""
  phi, q, doubt = feed.activation, source.size, source.doubt
  if not (q == 0 or 1e-300 < q < 1e300):
    q, doubt = 1.0, "assumed unit second moment: theory leaves float64"
  if phi is None or phi is identity:
    return Fed(source, q, 1.0, 1.0, doubt)
  if feed.reason == "input":
    doubt = doubt or "an activation of the inputs, taken as Gaussian"
  try:
    if q == 0:
      at_zero = moments(phi, 0.0)
      second, derivative = (
        at_zero.second_moment,
        at_zero.derivative_second_moment,
      )
      return Fed(source, float(second), 1.0, float(derivative), doubt)
    here = response(phi)(math.log2(q))
  except ValueError as error:
    raise ValueError(f"at {op.path or 'a constant kernel'}: {error}") from error
  return Fed(
    source,
    2.0**here.log2_second_moment,
    here.slope,
    math.inf if here.log2_derivative > 1e3 else 2.0**here.log2_derivative,
    doubt,
  )
