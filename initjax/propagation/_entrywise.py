"""Signals that an activation makes from others, and how gradients return."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from initjax.graph import Image
from initjax.meanfield import THEORY_FAILS
from initjax.propagation._borders import raised
from initjax.propagation._images import (
  affine_of,
  evaluate,
  image_by_line,
  image_of_drawn,
  image_of_gaussian,
  is_plain,
)
from initjax.propagation._signals import (
  DRAWN,
  Edge,
  Fed,
  Signal,
  average,
  draw_units,
  joined,
)
from initjax.typing import Activation

ASSUMED = "assumed unit second moment"
_TAKEN = "an activation of inputs or products, taken as Gaussian"


@dataclasses.dataclass
class Images:
  """What is made of signals entry by entry."""

  assumes: bool
  """whether the unknown counts as 1, with a doubt, and not as NaN"""
  pairs: bool
  """whether what samples and positions share is followed"""
  gradients: bool
  """whether the gradient will be asked for"""
  random: np.random.Generator = dataclasses.field(
    default_factory=lambda: np.random.default_rng(0)
  )
  failure: str = ""
  """what the latest function without moments lacks"""

  def of(
    self, phi: Activation | None, source: Signal, needs_mean: bool = False
  ) -> Fed:
    """Of φ(h), for the activation φ of a source h."""
    if phi is None or is_plain(phi):
      return _unchanged(source)
    if source.parts:
      return self._of_parts(phi, source, needs_mean)
    in_range = source.size == 0 or 1e-300 < source.size < 1e300
    if self.assumes:
      source, doubt = self._taken(phi, source, in_range)
    elif in_range:
      doubt = source.doubt
    else:
      return _not_known(source, source.doubt)
    self.failure, found = "", None
    try:
      found = self._law(phi, source, needs_mean)
    except THEORY_FAILS as error:
      self.failure = str(error)
    if found is not None:
      return found._replace(doubt=doubt)
    if not self.assumes:
      return _not_known(source, self.failure or "an activation of inputs")
    reason = self.failure.split("; ")[0].split(". ")[0].rstrip(".")
    assumed = f"{ASSUMED}: {reason}"
    doubt = f"{doubt}; {assumed}" if doubt else assumed
    return Fed(source, 1.0, derivative=math.nan, doubt=doubt)

  def _law(
    self, phi: Activation, source: Signal, needs_mean: bool
  ) -> Fed | None:
    if source.gaussian:
      return image_of_gaussian(
        phi, source, pairs=self.pairs, needs_mean=needs_mean
      )
    found = image_of_drawn(phi, source, self.random)
    if found is None and (line := affine_of(phi)) is not None:
      return image_by_line(line, source)
    return found

  def _taken(
    self, phi: Activation, source: Signal, in_range: bool
  ) -> tuple[Signal, str]:
    """A signal as `auto_init` takes it: Gaussian, if it can be no other."""
    doubt = source.doubt
    if not in_range:
      doubt = f"{ASSUMED}: theory leaves float64"
      source = dataclasses.replace(source, size=1.0, mean=0.0, gaussian=True)
    elif not source.gaussian and self._law(phi, source, False) is None:
      doubt = doubt or _TAKEN
      source = dataclasses.replace(source, mean=0.0, gaussian=True)
    return source, doubt

  def _of_parts(self, phi: Activation, source: Signal, needs_mean: bool) -> Fed:
    """Of φ(h) where parts of h differ in size: each by itself."""
    every = [
      (self.of(phi, part, needs_mean), weight) for part, weight in source.parts
    ]
    mean = lambda name: sum(getattr(fed, name) * w for fed, w in every)
    whole, near = mean("derivative"), mean("derivative_near")
    shared = mean("derivative_shared")
    edges = tuple(_share_of(fed, whole, near, shared) for fed, _ in every)
    image = dataclasses.replace(source, edges=edges)
    weighted = lambda name: average(
      [(getattr(fed, name), w * fed.second_moment) for fed, w in every]
    )
    return Fed(
      image,
      mean("second_moment"),
      weighted("slope"),
      whole,
      mean("shared"),
      mean("near"),
      near,
      shared,
      mean("mean"),
      joined(fed.doubt for fed, _ in every),
      weighted("error"),
    )

  def slopes(
    self, phi: Activation | None, source: Signal, factor: float
  ) -> Callable[[], np.ndarray | None] | None:
    """What comes back through φ, unit by unit."""
    if not self.gradients or is_plain(phi):
      return None

    def slopes() -> np.ndarray | None:
      entries = draw_units(source, self.random)
      if entries is None:
        return None
      slope = evaluate(phi, entries)[1]  # type: ignore[arg-type]
      return factor * slope[0] * slope

    return slopes

  def signal(self, image: Image, fed: Fed) -> Signal:
    """φ(h) as a signal."""
    phi, source, share = image.activation, fed.source, image.share

    def made(random: np.random.Generator) -> np.ndarray | None:
      entries = draw_units(source, random)
      if entries is None or is_plain(phi):
        return entries
      return evaluate(phi, entries)[0]

    edge = Edge(
      source,
      share * fed.derivative,
      share * fed.derivative_near,
      share * fed.derivative_shared,
      slopes=self.slopes(phi, source, share),
    )
    return Signal(
      fed.second_moment,
      fed.mean,
      fed.shared,
      fed.near,
      is_plain(phi) and source.gaussian,
      fed.error,
      raised(source.profile, fed.slope),
      fed.common,
      edges=(edge,),
      made=made,
      stretch=fed.slope * source.stretch,
      upstream=fed.slope * source.upstream,
      slope=fed.steepness,
      doubt=fed.doubt,
    )

  def product(self, images: Sequence[Image], fed: Sequence[Fed]) -> Signal:
    """Of images that are independent, given what feeds them all.

    Their moments multiply; of a change of size that they share, slopes add.
    """
    if len(fed) == 1:
      return self.signal(images[0], fed[0])
    moments = np.array([(f.second_moment, f.near, f.shared) for f in fed])
    edges = []
    for i, (each, image) in enumerate(zip(fed, images, strict=True)):
      others = image.share * np.delete(moments, i, axis=0).prod(axis=0)
      slopes = (each.derivative, each.derivative_near, each.derivative_shared)
      units = self._slopes_in_product(images, fed, i)
      own, near, shared = (float(factor) for factor in others * slopes)
      edges.append(Edge(each.source, own, near, shared, slopes=units))
    upstream = sum(each.slope * each.source.upstream for each in fed)
    own = max(each.slope * each.source.stretch for each in fed)
    signals = [
      self.signal(image, each) for image, each in zip(images, fed, strict=True)
    ]

    def made(random: np.random.Generator) -> np.ndarray | None:
      found = np.ones((3, DRAWN))
      for each in signals:
        entries = draw_units(each, random)
        if entries is None:
          return None
        found *= entries
      return found

    return Signal(
      math.prod(each.second_moment for each in fed),
      math.prod(each.mean for each in fed),
      math.prod(each.shared for each in fed),
      math.prod(each.near for each in fed),
      gaussian=False,
      error=sum(each.error for each in fed),
      edges=tuple(edges),
      made=made,
      stretch=max(own, upstream),
      upstream=upstream,
      slope=sum(each.steepness for each in fed),
      doubt=joined(each.doubt for each in fed),
    )

  def _slopes_in_product(
    self, images: Sequence[Image], fed: Sequence[Fed], place: int
  ) -> Callable[[], np.ndarray | None] | None:
    """Of one factor, unit by unit, times all others."""
    if not self.gradients:
      return None

    def slopes() -> np.ndarray | None:
      found = np.ones((3, DRAWN))
      for at, (image, each) in enumerate(zip(images, fed, strict=True)):
        entries, phi = draw_units(each.source, self.random), image.activation
        if entries is None:
          return None
        if not is_plain(phi):
          found *= evaluate(phi, entries)[at == place]
        elif at != place:
          found *= entries
      share = images[place].share
      return share * found[0] * found

    return slopes


def _unchanged(source: Signal) -> Fed:
  return Fed(
    source,
    source.size,
    shared=source.shared,
    near=source.near,
    mean=source.mean,
    doubt=source.doubt,
    error=source.error,
    common=source.common,
  )


def _not_known(source: Signal, why: str) -> Fed:
  nan = math.nan
  return Fed(source, nan, nan, nan, nan, nan, nan, nan, nan, doubt=why)


def _share_of(fed: Fed, whole: float, near: float, shared: float) -> Edge:
  """What one part passes on of the slopes of all."""
  over = lambda part, of: part / of if of else 0.0
  return Edge(
    fed.source,
    over(fed.derivative, whole),
    over(fed.derivative_near, near),
    over(fed.derivative_shared, shared),
  )
