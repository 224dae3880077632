"""One walk over the rows of a graph: the second moment of every signal.

The graph says of each operation which stream feeds it: a sum of outputs, biases
and earlier streams, perhaps normalized, products of their images, or mixtures
of their positions. In the order of execution each row is fed φ(h) (`Walk.fed`)
and, given the variance of its kernel, puts out a signal (`Walk.put`). Two
functions use it: `predict` knows the weights and leaves unknown what the graph
does not say; `auto_init` lets each row ask for a variance and takes unknown
sizes to be 1, with a doubt.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from initjax._activations import identity
from initjax.graph import Feed, Image, LinearOp, Scale, Site, Stream, Term
from initjax.meanfield import THEORY_FAILS
from initjax.propagation._borders import (
  matrices_of,
  mixed,
  neglected,
  raised,
)
from initjax.propagation._common import in_common
from initjax.propagation._entrywise import ASSUMED, Images
from initjax.propagation._images import affine_of, is_plain
from initjax.propagation._normalized import divided
from initjax.propagation._positions import attended, averaged, largest
from initjax.propagation._signals import (
  Edge,
  Fed,
  Signal,
  joined,
  side_by_side,
  sum_of,
)
from initjax.typing import Activation

_PRODUCT = "product of two signals, as in attention"
_MIXED = {
  "average": "a mean over positions",
  "maximum": "a maximum over positions",
  "attention": _PRODUCT,
}


@dataclasses.dataclass
class Walk:
  """The latest signal at each site, as rows are visited in order."""

  mean_square: Callable[[Scale], float]
  """of a bias or a scale"""
  input_size: float
  assumes: bool
  """whether the unknown counts as 1, with a doubt, and not as NaN"""
  pairs: bool = False
  """whether something is normalized over samples, or positions are mixed, so
  that it matters what samples and positions share"""
  near_of: Callable[[Scale], float] | None = None
  """of a bias, what positions share of its mean square"""
  lacks: Callable[[Scale], bool] = lambda scale: False
  """whether it has no values: then it scales by 1, and shifts by 0"""
  tape: list[Signal] | None = None
  """where signals are noted as they are made, for the gradient: read backwards,
  all that a signal feeds comes before it"""
  outputs: dict[Site, Signal] = dataclasses.field(default_factory=dict)
  streams: dict[Site, Signal] = dataclasses.field(default_factory=dict)
  inners: dict[Site, Signal] = dataclasses.field(default_factory=dict)
  images: Images = dataclasses.field(init=False)

  def __post_init__(self) -> None:
    self.images = Images(self.assumes, self.pairs, self.tape is not None)

  def fed(self, op: LinearOp, repeat: tuple[int, ...]) -> Fed:
    """Returns what feeds a row."""
    feed, site = op.feed_at(repeat), op.place.site
    if op.kind == "embedding":
      return Fed(Signal(), 1.0, slope=0.0)
    if feed.stream is not None:
      source = self.streams[site] = self.total(feed.stream, site)
    elif feed.reason == "constant" and self.assumes:
      source = Signal(0.0)
    else:
      source = self._unknown(_words(feed), feed.reached, site)
      if self.assumes and _is_multiple(feed.activation):
        return Fed(source, 1.0, doubt=source.doubt)
    return self._through(feed.activation, source)

  def put(self, op: LinearOp, fed: Fed, variance: float | None) -> Signal:
    """Records a row's output, given the variance of its operand's entries.

    A variance of None means a kernel that keeps the size of its input.
    """
    source, upstream = fed.source, fed.slope * fed.source.stretch
    output = Signal(
      stretch=max(1.0, upstream), upstream=upstream, fan_in=op.fan_in
    )
    if variance is None:
      output.size = 1.0 if fed.second_moment else 0.0
    else:
      taps: tuple[np.ndarray, ...] = ()
      fan_in, fan_out = op.fan_in, op.fan_out
      profile = raised(source.profile, fed.slope)
      if not self.assumes:  # what is measured has borders
        fan_in, fan_out = op.valid_fan_in, op.valid_fan_out
        taps = matrices_of(op.taps, profile)
      uneven, mixed_profile = mixed(taps, profile)
      sigma_w2 = variance * fan_in * uneven
      output.profile = mixed_profile if taps else profile
      output.size = sigma_w2 * fed.second_moment
      _share(op, fed, variance * fan_in, output)
      output.error = fed.error + neglected(taps) + _width_error(op)
      output.doubt = fed.doubt if math.isnan(output.size) else ""
      output.edges = (self._back(op, fed, variance * fan_out, taps),)
      if op.kind == "embedding":
        output.near, output.shared = self._looked_up(op, output.size)
      elif math.isfinite(fed.derivative):
        chi = sigma_w2 * fed.derivative
        output.chi = chi * source.chi if source.layers else 1.0
        output.layers = source.layers + 1
    self.outputs[op.place.site] = self._note(output)
    return output

  def _back(
    self, op: LinearOp, fed: Fed, factor: float, taps: Sequence[np.ndarray]
  ) -> Edge:
    share = op.usual_feed.share
    return Edge(
      fed.source,
      factor * fed.derivative * share,
      factor * fed.derivative_near * share,
      factor * fed.derivative_shared * share,
      error=neglected(taps) + _width_error(op),
      taps=taps,
      slopes=self.images.slopes(
        op.usual_feed.activation, fed.source, factor * share
      ),
    )

  @staticmethod
  def _looked_up(op: LinearOp, size: float) -> tuple[float, float]:
    """What positions and samples share of rows that are looked up."""
    if op.feed.reason == "positions":
      return 0.0, size
    shape = op.kernel_shape
    rows = math.prod(shape[axis] for axis in op.axes.summed) if shape else 0
    return (size / rows, size / rows) if rows else (0.0, 0.0)

  def total(self, stream: Stream, site: Site) -> Signal:
    """Returns the sum of a stream's terms, independent except for their means.

    If one of them has parts, so does the sum.
    """
    terms = [(self._signal(term, site), self._root(term)) for term in stream]
    shares = [term.share for term in stream]
    several = next((i for i, (p, _) in enumerate(terms) if p.parts), None)
    if several is not None:
      whole, root = terms.pop(several)
      pieces = [
        (self._note(sum_of([(piece, root)], terms, weight)), weight)
        for piece, weight in whole.parts
      ]
      signal = side_by_side(pieces)
    else:
      signal = sum_of(terms, shares=shares)
      chain = [i for i, term in enumerate(stream) if term.kind != "bias"]
      if len(chain) == 1 and stream[chain[0]].kind == "output":
        before, root = terms[chain[0]]
        signal.chi, signal.layers = before.chi * root * root, before.layers
    if any(map(self._lacks, stream)):
      signal.doubt = joined([signal.doubt, _CONSTANTS])
    return self._note(signal)

  def _root(self, term: Term) -> float:
    """What multiplies a term; parameters count as their root mean square."""
    squares = math.prod(map(self._square, term.scales))
    return term.factor * math.sqrt(squares)

  def _square(self, scale: Scale) -> float:
    return 1.0 if self._without_values(scale) else self.mean_square(scale)

  def _without_values(self, scale: Scale) -> bool:
    if self.lacks(scale):
      return True
    return self.assumes and math.isnan(self.mean_square(scale))

  def _lacks(self, term: Term) -> bool:
    """Whether its size is assumed, since a constant has no values."""
    return any(map(self._without_values, (*term.scales, *_paths(term))))

  def _signal(self, term: Term, site: Site) -> Signal:
    if term.kind == "bias":
      if self._lacks(term):
        return Signal(0.0)
      size = self.mean_square(term.path) if term.path else 1.0
      near = self.near_of(term.path) if self.near_of and term.path else size
      return Signal(size, shared=size, near=near)
    if term.kind == "constant":
      return Signal(mean=1.0, shared=1.0, near=1.0)
    if term.kind == "noise":
      return Signal()
    if term.kind == "ones":
      return Signal(mean=1.0, gaussian=False)
    if term.kind == "input":
      return Signal(self.input_size, gaussian=False, made=lambda random: None)
    if term.kind == "normalized":
      return self._normalized(term, site)
    if term.kind == "product":
      fed = [self._image(image, site) for image in term.images]
      return self._note(self.images.product(term.images, fed))
    if term.kind == "parts":
      pieces = [
        (self._piece(image, site), image.weight) for image in term.images
      ]
      return self._note(side_by_side(pieces))
    if term.kind in _MIXED:
      return self._mixed(term, site)
    known = {
      "output": self.outputs, "stream": self.streams, "inner": self.inners
    }.get(term.kind, {})  # fmt: skip
    why = "its source is not known"
    return known.get(term.site) or self._unknown(why, term.inner or None, site)

  def _normalized(self, term: Term, site: Site) -> Signal:
    """Of unit second moment, without the mean of samples or of units."""
    inner = self.inners[site] = self.total(term.inner, site)
    over_samples = term.over == "samples"
    if over_samples:
      self._note_own_kernel(term.inner)
    if not inner.parts or (math.isnan(inner.size) and not over_samples):
      return self._note(divided(inner, inner, term, self.assumes))
    pieces = [
      (
        self._note(
          divided(part, part if over_samples else inner, term, self.assumes)
        ),
        weight,
      )
      for part, weight in inner.parts
    ]
    return self._note(side_by_side(pieces))

  def _note_own_kernel(self, inner: Stream) -> None:
    """Of an operation whose output alone is divided by its deviation.

    s² is proportional to the square of a kernel of fan_in entries; but for that
    no size that depends on chance is left.
    """
    chain = [each for each in inner if each.kind != "bias"]
    if len(chain) == 1 and chain[0].kind == "output":
      before = self.outputs.get(chain[0].site)
      if before is not None:
        before.raised = 1 / (1 - 2 / max(before.fan_in or 0.0, 4.0))
        before.edges = tuple(
          edge._replace(error=neglected(edge.taps)) for edge in before.edges
        )

  def _piece(self, image: Image, site: Site) -> Signal:
    """What is joined to others: an image of a stream."""
    fed = self._image(image, site)
    linear = image.activation in (None, identity)
    if linear and image.share == 1:
      return fed.source
    return self._note(self.images.signal(image, fed))

  def _image(self, image: Image, site: Site) -> Fed:
    source = self.total(image.stream, site)
    return self._through(image.activation, source, needs_mean=True)

  def _through(
    self, phi: Activation | None, source: Signal, needs_mean: bool = False
  ) -> Fed:
    fed = self.images.of(phi, source, needs_mean)
    if fed.source is not source:  # parts by parts
      self._note(fed.source)
    return fed

  def _mixed(self, term: Term, site: Site) -> Signal:
    """Positions of signals, pooled or attended to."""
    mixing = term.mixing
    assert mixing is not None
    if self.assumes:
      return self._unknown(_MIXED[term.kind])
    fed = [self._image(image, site) for image in term.images]
    images = zip(term.images, fed, strict=True)
    noted = lambda pair: self._note(self.images.signal(*pair))
    found: Any = None
    if term.kind == "attention":
      values, queries, keys = map(noted, images)
      found = attended(values, queries, keys, mixing)
    elif math.isnan(fed[0].second_moment):
      found = fed[0].doubt
    elif term.kind == "average":
      found = averaged(noted(next(images)), mixing)
    else:
      phi = term.images[0].activation
      found = largest(phi, fed[0].source, mixing, self.images.random)
    if isinstance(found, Signal):
      return self._note(found)
    reached = [each.source for each in fed]
    why = found or "a maximum of what is not Gaussian"
    return self._note(_not_known_of(why, reached))

  def _unknown(
    self, why: str, reached: Stream | None = None, site: Site = ()
  ) -> Signal:
    """What the graph does not say; of all before, where not even of what."""
    if self.assumes:
      return Signal(doubt=f"{ASSUMED}: {why}")
    if reached is None:
      return self._note(_not_known_of(why, tuple(self.tape or ())))
    known = [self._signal(term, site) for term in reached]
    return self._note(_not_known_of(why, known))

  def _note(self, signal: Signal) -> Signal:
    if self.tape is not None:
      self.tape.append(signal)
    return signal


def _share(op: LinearOp, fed: Fed, sigma_w2: float, output: Signal) -> None:
  """Notes what positions and samples share of an output."""
  found = in_common(op.taps, fed.shared, fed.common)
  own = (fed.near - fed.shared) * found.apart
  output.near = sigma_w2 * (found.near + own)
  output.shared = sigma_w2 * found.shared
  output.common = tuple(sigma_w2 * each for each in found.common)


_CONSTANTS = "constants without values, assumed to scale by 1 and shift by 0"


def _paths(term: Term) -> tuple[str, ...]:
  return (term.path,) if term.kind == "bias" and term.path else ()


def _not_known_of(why: str, reached: Sequence[Signal]) -> Signal:
  edges = tuple(Edge(each, math.nan) for each in reached)
  made = lambda random: None
  return Signal(math.nan, gaussian=False, made=made, edges=edges, doubt=why)


def _is_multiple(phi: Activation | None) -> bool:
  """Whether φ multiplies by a number, as the last step of a mean does."""
  if is_plain(phi):
    return False
  try:
    line = affine_of(phi)
  except THEORY_FAILS:
    return False
  return line is not None and line[1] == 0


def _width_error(op: LinearOp) -> float:
  """Of first order in 1/width, in bits."""
  is_kernel = op.kind != "embedding" and op.fan_in > 0
  return 1 / (2 * op.fan_in * math.log(2)) if is_kernel else 0.0


def _words(feed: Feed) -> str:
  """What a source is, where no more is known of it."""
  if feed.reason == "data product":
    return _PRODUCT
  return feed.reason
