"""One walk over the rows of a graph: the second moment of every signal.

The graph says of each operation which stream feeds it: a sum of outputs, biases
and earlier streams, perhaps normalized, or products of their images. In the
order of execution each row is fed φ(h) (`Walk.fed`) and, given the variance of
its kernel, puts out a signal (`Walk.put`). Two readings stand on it: `predict`
knows the weights and leaves unknown what the graph does not say; `auto_init`
lets each row ask for a variance and takes the unknown to be 1, with a doubt.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from initjax import meanfield
from initjax._activations import identity
from initjax.gains import joint_moments, moments
from initjax.graph import Feed, Image, LinearOp, Scale, Site, Stream, Term
from initjax.meanfield import THEORY_FAILS, Response
from initjax.propagation._signals import (
  Fed,
  Signal,
  average,
  joined,
  side_by_side,
  sum_of,
)
from initjax.typing import Activation


@functools.lru_cache(maxsize=256)
def response(activation: Activation) -> Callable[[float], Response[float]]:
  """`meanfield.response`, its table kept: a recovered φ never changes."""
  return meanfield.response(activation)


@dataclasses.dataclass
class Walk:
  """The latest signals at each site, while rows are run in order."""

  mean_square: Callable[[Scale], float]
  """of a bias or a scale"""
  input_size: float
  assumes: bool
  """whether the unknown counts as 1, with a doubt, and not as NaN"""
  over_samples: bool = False
  """whether something is normalized over samples, so that it matters what
  these share"""
  tape: list[Signal] | None = None
  """where signals are noted as they are made, for the gradient: read backwards,
  all that a signal feeds comes before it"""
  failure: str = ""
  """what the latest function without moments lacks"""
  outputs: dict[Site, Signal] = dataclasses.field(default_factory=dict)
  streams: dict[Site, Signal] = dataclasses.field(default_factory=dict)
  inners: dict[Site, Signal] = dataclasses.field(default_factory=dict)

  def fed(self, op: LinearOp, repeat: tuple[int, ...]) -> Fed:
    """What feeds a row."""
    feed, site = op.feed_at(repeat), op.place.site
    if op.kind == "embedding":
      return Fed(Signal(), 1.0, slope=0.0)
    if feed.stream is not None:
      source = self.streams[site] = self.total(feed.stream, site)
    elif feed.reason == "constant" and self.assumes:
      source = Signal(0.0)
    else:
      source = self._unknown(_words(feed))
    return self._through(feed.activation, source)

  def put(self, op: LinearOp, fed: Fed, variance: float | None) -> Signal:
    """Notes what a row puts out, for the variance of its operand's entries.

    None is that of a kernel which keeps the size of whatever it is fed.
    """
    source, upstream = fed.source, fed.slope * fed.source.stretch
    output = Signal(stretch=max(1.0, upstream), upstream=upstream)
    if variance is None:
      output.size = 1.0 if fed.second_moment else 0.0
    else:
      fan_in, fan_out = op.fan_in, op.fan_out
      if not self.assumes:  # what is measured has borders
        fan_in, fan_out = op.valid_fan_in, op.valid_fan_out
      sigma_w2 = variance * fan_in
      output.size = sigma_w2 * fed.second_moment
      output.shared = sigma_w2 * fed.shared
      output.edges = ((source, variance * fan_out * fed.derivative),)
      if op.kind != "embedding" and math.isfinite(fed.derivative):
        chi = sigma_w2 * fed.derivative
        output.chi = chi * source.chi if source.layers else 1.0
        output.layers = source.layers + 1
    self.outputs[op.place.site] = self._note(output)
    return output

  def total(self, stream: Stream, site: Site) -> Signal:
    """The sum of a stream's terms, which are independent but for their means.

    Where one of them has parts, so has the sum.
    """
    terms = [(self._signal(term, site), self._root(term)) for term in stream]
    doubt = self._doubt(stream)
    several = next((i for i, (p, _) in enumerate(terms) if p.parts), None)
    if several is not None:
      whole, root = terms.pop(several)
      pieces = [
        (self._note(sum_of([(piece, root)], terms, weight, doubt)), weight)
        for piece, weight in whole.parts
      ]
      return self._note(side_by_side(pieces))
    signal = sum_of(terms, doubt=doubt)
    chain = [i for i, term in enumerate(stream) if term.kind != "bias"]
    if len(chain) == 1 and stream[chain[0]].kind == "output":
      before, root = terms[chain[0]]
      signal.chi, signal.layers = before.chi * root * root, before.layers
    return self._note(signal)

  def _root(self, term: Term) -> float:
    """What multiplies a term; parameters count as their root mean square."""
    squares = math.prod(map(self._square, term.scales))
    return term.factor * math.sqrt(squares)

  def _square(self, scale: Scale) -> float:
    square = self.mean_square(scale)
    return 1.0 if self.assumes and math.isnan(square) else square

  def _lacks(self, term: Term) -> bool:
    """Whether its size is assumed, since a constant has no values."""
    squares = map(self.mean_square, term.scales)
    return self.assumes and any(map(math.isnan, squares))

  def _signal(self, term: Term, site: Site) -> Signal:
    if term.kind == "bias":
      size = self.mean_square(term.path) if term.path else 1.0
      size = 0.0 if self._lacks(term) else size
      return Signal(size, shared=size)
    if term.kind == "constant":
      return Signal(mean=1.0, shared=1.0, gaussian=False)
    if term.kind == "ones":
      return Signal(mean=1.0, gaussian=False)
    if term.kind == "input":
      return Signal(self.input_size, gaussian=False)
    if term.kind == "normalized":
      return self._normalized(term, site)
    if term.kind == "product":
      return self._product(term.images, site)
    if term.kind == "parts":
      pieces = [
        (self._piece(image, site), image.weight) for image in term.images
      ]
      return self._note(side_by_side(pieces))
    known = {
      "output": self.outputs, "stream": self.streams, "inner": self.inners
    }.get(term.kind, {})  # fmt: skip
    return known.get(term.site) or self._unknown("its source is not known")

  def _normalized(self, term: Term, site: Site) -> Signal:
    """Of unit second moment, without the mean of samples or of units."""
    inner = self.inners[site] = self.total(term.inner, site)
    over_samples = term.over == "samples"
    if not inner.parts or (math.isnan(inner.size) and not over_samples):
      return self._note(self._divided(inner, inner, term))
    pieces = [
      (
        self._note(self._divided(part, part if over_samples else inner, term)),
        weight,
      )
      for part, weight in inner.parts
    ]
    return self._note(side_by_side(pieces))

  def _divided(self, inner: Signal, whole: Signal, term: Term) -> Signal:
    """A signal, or a part of one, by the size of the whole."""
    own = 0.0  # what all units of a sample, or one unit of all samples, share
    if term.centred:
      over_samples = term.over == "samples"
      own = whole.shared if over_samples else whole.mean * whole.mean
    variance = whole.size - own
    if variance <= 0:
      size = 1.0 if self.assumes else math.nan
      return Signal(size, edges=((inner, math.nan),))
    mean = 0.0 if term.centred else inner.mean / math.sqrt(variance)
    return Signal(
      1.0 if inner is whole else (inner.size - own) / variance,
      mean,
      (inner.shared - own) / variance,
      not mean or math.isnan(mean),  # of the unknown, the size is known
      ((inner, 1 / variance),),
    )

  def _piece(self, image: Image, site: Site) -> Signal:
    """What is joined to others: an image of a stream."""
    fed = self._through(image.activation, self.total(image.stream, site))
    linear = image.activation in (None, identity)
    if linear and image.share == 1:
      return fed.source
    signal = Signal(
      fed.second_moment,
      self._mean(image.activation, fed),
      fed.shared,
      linear and fed.source.gaussian,
      ((fed.source, image.share * fed.derivative),),
      stretch=fed.slope * fed.source.stretch,
      upstream=fed.slope * fed.source.upstream,
      slope=fed.steepness,
      doubt=fed.doubt,
    )
    return self._note(signal)

  def _product(self, images: Sequence[Image], site: Site) -> Signal:
    """Of images that are independent, given what feeds them all.

    Their moments multiply; of a change of size that they share, slopes add.
    """
    fed = [
      self._through(image.activation, self.total(image.stream, site))
      for image in images
    ]
    sizes = [each.second_moment for each in fed]
    edges = []
    for i, (each, image) in enumerate(zip(fed, images, strict=True)):
      others = math.prod(sizes[:i] + sizes[i + 1 :])
      edges.append((each.source, image.share * each.derivative * others))
    upstream = sum(each.slope * each.source.upstream for each in fed)
    own = max(each.slope * each.source.stretch for each in fed)
    signal = Signal(
      math.prod(sizes),
      math.prod(map(self._mean, (image.activation for image in images), fed)),
      math.prod(each.shared for each in fed),
      gaussian=False,
      edges=tuple(edges),
      stretch=max(own, upstream),
      upstream=upstream,
      slope=sum(each.steepness for each in fed),
      doubt=joined(each.doubt for each in fed),
    )
    return self._note(signal)

  def _through(self, phi: Activation | None, source: Signal) -> Fed:
    """Of φ(h), for the activation φ of a source h."""
    q, doubt = source.size, source.doubt
    in_range = 1e-300 < q < 1e300
    unknown = Fed(source, math.nan, math.nan, math.nan, math.nan)
    if self.assumes and not (in_range or q == 0):
      q, doubt = 1.0, f"{_ASSUMED}: theory leaves float64"
    if phi is None or phi is identity:
      return Fed(source, q, 1.0, 1.0, source.shared, q, doubt)
    if source.parts:
      return self._through_parts(phi, source)
    if self.assumes and not source.gaussian:
      doubt = doubt or "an activation of inputs or products, taken as Gaussian"
    elif not self.assumes and not (source.gaussian and in_range):
      return unknown
    try:
      found = _moments(phi, q)
      shared = _shared(phi, source) if self.over_samples else 0.0
      return Fed(source, *found, shared, q, doubt)
    except THEORY_FAILS as error:
      self.failure = str(error)
    if not self.assumes:
      return unknown
    reason = self.failure.split("; ")[0].split(". ")[0].rstrip(".")
    assumed = f"{_ASSUMED}: {reason}"
    doubt = f"{doubt}; {assumed}" if doubt else assumed
    return Fed(source, 1.0, derivative=math.nan, doubt=doubt)

  def _through_parts(self, phi: Activation, source: Signal) -> Fed:
    """Of φ(h) where parts of h differ in size: each by itself."""
    every = [
      (self._through(phi, part), weight) for part, weight in source.parts
    ]
    size, derivative, shared = (
      sum(getattr(fed, name) * weight for fed, weight in every)
      for name in ("second_moment", "derivative", "shared")
    )
    slope = average([(fed.slope, w * fed.second_moment) for fed, w in every])
    edges = tuple(
      (fed.source, fed.derivative / derivative if derivative else 0.0)
      for fed, _ in every
    )
    image = dataclasses.replace(source, edges=edges, gradient=math.nan)
    doubt = joined(fed.doubt for fed, _ in every)
    seen = source.size
    return Fed(self._note(image), size, slope, derivative, shared, seen, doubt)

  def _mean(self, phi: Activation | None, fed: Fed) -> float:
    """E[φ(h)]; of few signals, since no table holds it."""
    if phi is None or phi is identity:
      return fed.source.mean
    try:
      return float(moments(phi, fed.variance).mean)
    except THEORY_FAILS:  # `_through` says why
      return 0.0 if self.assumes else math.nan

  def _doubt(self, stream: Stream) -> str:
    return _CONSTANTS if any(map(self._lacks, stream)) else ""

  def _unknown(self, why: str) -> Signal:
    if self.assumes:
      return Signal(doubt=f"{_ASSUMED}: {why}")
    return Signal(math.nan)

  def _note(self, signal: Signal) -> Signal:
    if self.tape is not None:
      self.tape.append(signal)
    return signal


_ASSUMED = "assumed unit second moment"
_CONSTANTS = "constants without values, taken to scale by 1 and shift by 0"


def _moments(phi: Activation, q: float) -> tuple[float, float, float]:
  """E[φ²], d log E[φ²]/d log q and E[φ'²] at the variance q."""
  if q == 0:
    at_zero = moments(phi, 0.0)
    slope = float(at_zero.derivative_second_moment)
    return float(at_zero.second_moment), 1.0, slope
  here = response(phi)(math.log2(q))
  size, derivative = here.log2_second_moment, here.log2_derivative
  if size >= 1024:
    raise OverflowError("theory leaves float64")
  return (
    2.0**size, here.slope, math.inf if derivative >= 1024 else 2.0**derivative
  )  # fmt: skip


def _shared(phi: Activation, source: Signal) -> float:
  """E[φ(h_a)·φ(h_b)] of two samples."""
  correlation = float(np.clip(source.shared / source.size, -1.0, 1.0))
  if math.isnan(correlation):
    return math.nan
  if correlation == 0:
    mean = float(moments(phi, source.size).mean)
    return mean * mean
  return float(joint_moments(phi, correlation, source.size).product)


def _words(feed: Feed) -> str:
  """What a source is, where no more is known of it."""
  if feed.reason == "data product":
    return "product of two signals, as in attention"
  return feed.reason
