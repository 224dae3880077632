"""Forward-pass factors that leaves absorb, so that no model is edited."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from initjax.graph import Holder, Holders, LinearOp, Product, products
from initjax.parametrization._growth import Use
from initjax.parametrization._models import Models
from initjax.parametrization._scaling import Scaling, compact
from initjax.typing import Numbers

_EXACT = 1e-6


class Demand(NamedTuple):
  """A factor that a signal should have."""

  factor: float
  why: str
  line: str
  """to write in the model where nothing can take it"""
  holders: tuple[Holder, ...] | None
  """None if nothing can"""


class Scores(NamedTuple):
  """A product that contracts a growing axis, and that of the base."""

  op: LinearOp
  base_op: LinearOp
  product: Product
  base: Product

  @property
  def factor(self) -> float:
    """c = (m₀·d₀)/(m·d), m the constant factor that the model has already."""
    own = self.product.factor * self.op.fan_in
    return self.base.factor * self.base_op.fan_in / own


def growing_products(models: Models) -> list[Scores]:
  """All products of two activations that contract a growing axis."""
  own, base = products(models.flow), products(models.base_flow)
  sites = [op.place.site for op in models.own.graph.products]
  known = [op.place.site for op in models.base.graph.products]
  found = []
  for number, op in enumerate(models.own.graph.products):
    if not known or sites[number] not in own:
      continue
    other = models.base.graph.products[number % len(known)]
    here, there = own[sites[number]], base.get(other.place.site)
    if there is None or op.fan_in == other.fan_in:
      continue
    found.append(Scores(op, other, here, there))
  return found


def attention(models: Models, every: Sequence[Scores]) -> list[Demand]:
  """1/d for these products, where the model does not have it."""
  wanted = [each for each in every if abs(each.factor - 1) > _EXACT]
  return [_score_demand(models, each, wanted) for each in wanted]


def _score_demand(
  models: Models, scores: Scores, every: Sequence[Scores]
) -> Demand:
  op, base, product, _ = scores
  factor = scores.factor
  near = lambda each: abs(each.factor / factor - 1) < _EXACT
  readers = [each.product.node for each in every if near(each)]
  search = Holders(models.flow, models.own.ops)
  holders = None
  for side in product.sides:
    for scales_first in (False, True):
      holders = holders or search.of(side, readers, scales_first=scales_first)
  shape = "×".join(map(str, op.shape))
  sums = f"sums over {op.fan_in:g} features ({base.fan_in:g} in the base)"
  name = "scores" if product.has_softmax else "the product"
  return Demand(
    factor,
    f"{name} of shape {shape} {sums}: 1/d, so × {factor:.4g}",
    f"the product of shape {shape} {sums}, and no parameter can take 1/d; "
    f"write {name} = {name} * {factor:.6g} in the model",
    holders,
  )


def readouts(
  models: Models, rows: Iterable[Scaling], uses: Mapping[str, Sequence[Use]]
) -> list[Demand]:
  """1/r_in for readouts that are tied to an embedding.

  Taken by the scale and offset of the normalization before, since the kernel
  keeps the size of the embedding.
  """
  found = []
  for row in rows:
    if row.role != "input":
      continue
    for use in uses[row.path]:
      if use.growth_in != 1 and use.growth_out == 1:
        factor = 1 / (use.growth_in * float(np.mean(row.absorbed)))
        found.append(_readout_demand(models, row, use, factor))
  return found


def _readout_demand(
  models: Models, row: Scaling, use: Use, factor: float
) -> Demand:
  node = models.flow.sites[use.op.place.site]
  search = Holders(models.flow, models.own.ops)
  holders = search.of(node.operands[0], [node], scales_first=True)
  said = f"the readout is tied to {row.path}"
  return Demand(
    factor,
    f"{said}: its input is multiplied by {factor:.4g}",
    f"{said}, and what feeds it can take no factor; write "
    f"logits = logits * {factor:.6g} in the model",
    holders,
  )


def with_demands(
  models: Models, rows: Iterable[Scaling], demands: Sequence[Demand]
) -> tuple[list[Scaling], list[str]]:
  """Rows that absorb what is demanded, and what none can."""
  table = {row.path: row for row in rows}
  demands = [_alone(models, demand, demands) for demand in demands]
  done: set[tuple[str, bytes, float]] = set()
  for demand in demands:
    for holder in demand.holders or ():
      row, key = table[holder.path], _key(holder, demand.factor)
      if key in done:
        continue
      done.add(key)
      whys = dict.fromkeys(filter(None, (row.why, demand.why)))
      table[holder.path] = row._replace(
        absorbed=times(row.absorbed, holder.entries, demand.factor),
        offset=holder.offset,
        why="; ".join(whys),
      )
  missing = [demand.line for demand in demands if demand.holders is None]
  return list(table.values()), list(dict.fromkeys(missing))


def _key(holder: Holder, factor: float) -> tuple[str, bytes, float]:
  return holder.path, holder.entries.tobytes(), factor


def times(absorbed: Numbers, entries: np.ndarray, factor: float) -> Numbers:
  """A factor of some entries, as small as it can be."""
  if entries.all():
    return absorbed * factor
  return compact(absorbed * np.where(entries, factor, 1.0))


def _alone(models: Models, demand: Demand, every: Sequence[Demand]) -> Demand:
  """The demand, without holders whose leaves are used elsewhere as well."""
  given: dict[str, set[tuple[int, ...]]] = {}
  for each in every:
    if abs(each.factor - demand.factor) < _EXACT:
      for holder in each.holders or ():
        given.setdefault(holder.path, set()).add(holder.site)
  for holder in demand.holders or ():
    if len(_sites(models, holder.path)) > len(given[holder.path]):
      return demand._replace(holders=None)
  return demand


def _sites(models: Models, path: str) -> set[tuple[int, ...]]:
  """Where a leaf meets data."""
  ops = (op for op in models.own.graph.ops if path in op.paths)
  found = {op.place.site for op in ops}
  return found | models.flow.places.get(path, set())
