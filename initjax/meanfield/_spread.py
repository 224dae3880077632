"""How deviations spread through a stack: covariances in one pass up and down.

A deviation of log P passes from layer to layer, and the units of each stream
add to it. In Hermite orders k these are Markov chains, of which a layer keeps
ρ^k. So the future depends on the past only through log P and the orders of one
stream, and the cost is linear in the depth (for a matrix, quadratic).
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Sum(NamedTuple):
  """In each stream, a sum of the deviation of log P and of its units."""

  variance: np.ndarray
  """[streams]: the coefficient of log P"""
  units: np.ndarray
  """[streams, orders]"""


class Maps(NamedTuple):
  """How a stack hands on deviations; its streams are 0 (data) to depth."""

  kept: np.ndarray
  """[depth]: of log P in the next log P"""
  added: np.ndarray
  """[depth, orders]: what units add to it"""
  remembered: np.ndarray
  """[depth, orders]: ρ^k"""
  size: Sum
  """the log of the second moment that is measured"""
  derivative: Sum
  """the log of the mean φ'² of units, over what a normalization divides by"""
  share: np.ndarray
  """[streams]: of that in the log of the gradient"""

  @property
  def growth(self) -> Sum:
    """What a layer adds to the log of the gradient, but for fresh noise."""
    variance, units = self.derivative
    return Sum(self.share * variance, self.share[:, None] * units)


@dataclasses.dataclass(frozen=True, eq=False)
class Spread:
  """Covariances of deviations, of one input or between two."""

  maps: Maps
  alike: np.ndarray
  """[streams, orders]: of an order with itself, or with the other input's"""
  fresh: np.ndarray
  """[streams]: what each layer adds to the gradient's log by itself"""
  variance: np.ndarray
  """[streams]: of log P"""
  orders: np.ndarray
  """[streams, orders]: of log P with the orders"""

  @property
  def forward(self) -> np.ndarray:
    """[streams]: variance of the log that is measured."""
    return self.of(self.maps.size)

  @property
  def backward(self) -> np.ndarray:
    """[streams]: variance of the log of the gradient."""
    known, beyond = self._gradient()
    return self.of(known) + beyond + np.cumsum(self.fresh[::-1])[::-1]

  def of(self, one: Sum) -> np.ndarray:
    """[streams]: variance of such a sum."""
    return (
      one.variance**2 * self.variance
      + 2 * one.variance * (one.units * self.orders).sum(axis=-1)
      + (one.units**2 * self.alike).sum(axis=-1)
    )

  def forward_matrix(self) -> np.ndarray:
    """[streams, streams]: covariance of what `forward` is the variance of."""
    return _symmetric(list(self._with_earlier(self.maps.size, self.maps.size)))

  def backward_matrix(self) -> np.ndarray:
    """[streams, streams]: of `backward`."""
    known, _ = self._gradient()
    rows = []
    earlier = self._with_earlier(self.maps.growth, known)
    for own, row in zip(self.backward, earlier, strict=True):
      between = np.cumsum(row[-2::-1])[::-1]  # growth that this one has not
      rows.append(own + np.append(between, 0.0))
    return _symmetric(rows)

  def _gradient(self) -> tuple[Sum, np.ndarray]:
    """What a stream accounts for of its gradient's log; variance of the rest.

    But for fresh noise.
    """
    maps = self.maps
    variance, units = map(np.array, maps.growth)
    beyond = np.zeros(variance.size)
    for i in reversed(range(variance.size - 1)):
      units[i] += maps.added[i] * variance[i + 1]
      units[i] += maps.remembered[i] * units[i + 1]
      variance[i] += maps.kept[i] * variance[i + 1]
      new = self.alike[i + 1] - maps.remembered[i] ** 2 * self.alike[i]
      beyond[i] = beyond[i + 1] + new @ units[i + 1] ** 2
    return Sum(variance, units), beyond

  def _with_earlier(self, before: Sum, now: Sum) -> Iterator[np.ndarray]:
    """For each stream, [to there]: covariance of earlier sums with its own."""
    maps = self.maps
    alone = before.variance * self.variance
    alone += (before.units * self.orders).sum(axis=-1)
    units = before.variance[:, None] * self.orders + before.units * self.alike
    for i in range(alone.size):
      if i:
        alone[:i] *= maps.kept[i - 1]
        alone[:i] += units[:i] @ maps.added[i - 1]
        units[:i] *= maps.remembered[i - 1]
      end = i + 1
      yield alone[:end] * now.variance[i] + units[:end] @ now.units[i]


def spread(maps: Maps, alike: np.ndarray, fresh: np.ndarray) -> Spread:
  """Follows log P through the stack."""
  variance, orders = np.zeros(len(alike)), np.zeros_like(alike)
  for i, (kept, added, remembered) in enumerate(
    zip(maps.kept, maps.added, maps.remembered, strict=True)
  ):
    units = added * alike[i]
    variance[i + 1] = kept**2 * variance[i]
    variance[i + 1] += added @ (2 * kept * orders[i] + units)
    orders[i + 1] = remembered * (kept * orders[i] + units)
  return Spread(maps, alike, fresh, variance, orders)


def _symmetric(rows: list[np.ndarray]) -> np.ndarray:
  """The matrix with these lower rows."""
  lower = np.zeros((len(rows), len(rows)))
  for i, row in enumerate(rows):
    lower[i, : i + 1] = row
  return lower + np.tril(lower, -1).T
