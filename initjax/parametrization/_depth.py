"""Depth: residual branches of a model with m times the layers of its base.

CompleteP with exponent α (1, or ½): a branch is multiplied by m^-α, which its
last leaves absorb. For all leaves of a branch, Adam's rate is × m^(α-1), ε is
× m^-α, and SGD's rate is × m^(2α-1). Embeddings, the last normalization and the
readout stay unchanged.

Reference: Dey et al. 2025, "Don't be lazy: CompleteP enables compute-efficient
deep transformers", Table 1.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from initjax.graph import Branch, Holders, branches, constant_of
from initjax.parametrization._absorb import Demand
from initjax.parametrization._growth import pattern
from initjax.parametrization._models import Models
from initjax.parametrization._scaling import Scaling


class Depth(NamedTuple):
  """How much deeper a model is than its base."""

  ratio: float = 1.0
  """m, the number of layers against the base's"""
  exponent: float = 1.0
  """α"""
  own: tuple[Branch, ...] = ()
  base: tuple[Branch, ...] = ()

  @property
  def leaves(self) -> frozenset[str]:
    """Of all branches."""
    return frozenset().union(*(branch.leaves for branch in self.own))


def read_depth(
  models: Models, base_depth: int | None, exponent: float
) -> Depth:
  """Counts the layers of both.

  Raises:
    ValueError: if a model that is deeper normalizes its residual stream
      (post-norm); if it has no residual branches.
  """
  own = branches(models.flow, models.own.ops)
  base = branches(models.base_flow, models.base.ops)
  layers = _layers(own), _layers(base) if base_depth is None else base_depth
  differ = any(
    pair.base_path != pair.path for pair in models.pairs.values()
  ) or _stacked(models)
  if not own or not base:
    if base_depth is not None or differ:
      raise ValueError(
        "no residual branch x + f(x) was found, and depth is scaled by "
        "branches: give model and base the same number of layers."
      )
    return Depth(exponent=exponent)
  depth = Depth(layers[0] / layers[1], exponent, tuple(own), tuple(base))
  if depth.ratio != 1 and any(branch.after_norm for branch in own):
    raise ValueError(
      f"the model has {layers[0]:g} layers, the base {layers[1]:g}, and the "
      "residual stream itself is normalized (post-norm): no rule is known that "
      "makes rates of such models independent of depth. Give both the same "
      "number of layers, or normalize inside the branches (pre-norm)."
    )
  return depth


def _stacked(models: Models) -> bool:
  """Whether scans have more repeats in one than in the other."""
  return any(use.op.repeats != use.base.repeats for use in models.uses)


def _layers(found: Sequence[Branch]) -> float:
  """Branches, by how many kinds of them there are."""
  kinds = {frozenset(map(pattern, branch.leaves)) for branch in found}
  return sum(branch.repeats for branch in found) / max(1, len(kinds))


def deeper(rows: Iterable[Scaling], depth: Depth) -> list[Scaling]:
  """Rows with the factors of depth."""
  m, alpha, leaves = depth.ratio, depth.exponent, depth.leaves
  if m == 1:
    return list(rows)
  rate, found = m ** (alpha - 1), []
  for row in rows:
    if row.path in leaves:
      row = row._replace(
        adam=row.adam * rate,
        sgd=row.sgd * m ** (2 * alpha - 1),
        eps=row.eps * m**-alpha,
        parameter_scaled=row.parameter_scaled * rate,
        muon=row.muon * rate,
      )
    found.append(row)
  return found


def branch_demands(models: Models, depth: Depth) -> list[Demand]:
  """m^-α at the end of each branch, less what the model has already."""
  if depth.ratio == 1:
    return []
  search, found = Holders(models.flow, models.own.ops), []
  for number, branch in enumerate(depth.own):
    other = depth.base[number % len(depth.base)]
    own = constant_of(models.flow, branch.end)
    factor = depth.ratio**-depth.exponent
    factor *= constant_of(models.base_flow, other.end) / own
    holders = search.of(branch.end, [branch.sum])
    holders = holders or search.of(branch.end, [branch.sum], scales_first=True)
    said = f"{depth.ratio:.4g} × the layers of the base"
    name = ", ".join(sorted(branch.leaves)[:3])
    found.append(
      Demand(
        factor,
        f"ends a residual branch, with {said}: × {factor:.4g}",
        f"with {said} the residual branch of {name}, … needs a factor of "
        f"{factor:.6g}, and no parameter can absorb it; write "
        f"x + {factor:.6g} * f(x) in the model",
        holders,
      )
    )
  return found
