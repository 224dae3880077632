"""Every leaf's row: its role from its uses, and its factors of width."""

import warnings
from collections.abc import Collection, Sequence
from typing import NamedTuple

from initjax.graph import Site, factor_after, terms_within
from initjax.parametrization._absorb import (
  attention,
  growing_products,
  readouts,
  with_demands,
)
from initjax.parametrization._depth import Depth, branch_demands, deeper
from initjax.parametrization._growth import Use, own_axes, vector_growth
from initjax.parametrization._models import Models
from initjax.parametrization._overrides import (
  Override,
  overridden,
  with_role,
)
from initjax.parametrization._parts import with_parts
from initjax.parametrization._rules import Role, role_of, width
from initjax.parametrization._scaling import Scaling

_ORDER: tuple[Role, ...] = (
  "input", "hidden", "output", "bottleneck", "vector", "fixed"
)  # fmt: skip
_NARROW = 4.0
"""How much more fan_in may grow than fan_out."""


class Scaled(NamedTuple):
  """All rows, and what is to be said of them."""

  rows: tuple[Scaling, ...]
  notes: tuple[str, ...] = ()
  incomplete: tuple[str, ...] = ()


def scale(
  models: Models, depth: Depth, overrides: Sequence[Override]
) -> Scaled:
  """The rows of all leaves.

  Warns:
    UserWarning: if nothing grows, or the base is the wider one.
  """
  by_path: dict[str, list[Use]] = {path: [] for path in models.pairs}
  for use in models.uses:
    by_path[use.path].append(use)
  scores = growing_products(models)
  ends = {site for each in scores for site in each.product.ends}
  rows = [
    with_role(_row(models, path, found, ends), overrides)
    for path, found in by_path.items()
  ]
  if depth.ratio == 1:
    _warn_of_widths(rows)
  _warn_of_classes(models)
  demands = [
    *attention(models, scores),
    *readouts(models, rows, by_path),
    *branch_demands(models, depth),
  ]
  rows, incomplete = with_demands(models, deeper(rows, depth), demands)
  rows = overridden(rows, overrides)
  notes = [note for row in rows for note in _notes(models, row, by_path)]
  said = tuple(dict.fromkeys(notes))
  return Scaled(tuple(rows), said, tuple(incomplete))


def _row(
  models: Models, path: str, uses: Sequence[Use], ends: Collection[Site]
) -> Scaling:
  """One leaf's; `ends` are operations whose multipliers count in scores."""
  pair = models.pairs[path]
  row = Scaling(path, pair.shape, pair.base_shape, "unknown", 1.0, 1.0, 1.0)
  if path in models.own.graph.not_followed:
    primitive = models.own.graph.not_followed[path]
    why = f"used in a way that is not read ({primitive})"
    return _of_shape(models, row)._replace(why=why)
  if path in models.own.graph.unused:
    return row._replace(role="fixed", why="not used")
  if not uses:
    axes = own_axes(path, None, models.flow)
    growth = vector_growth(pair, axes)
    role = role_of(1.0, 1.0, growth, interior=False)
    return _with_width(row, role, 1.0, 1.0, growth)
  ranked = sorted(uses, key=lambda use: _ORDER.index(use_role(models, use)))
  first = ranked[0]
  if first.op.view is not None and first.op.view.computed:
    growth = vector_growth(pair, own_axes(path, first.op, models.flow))
    if growth != first.growth:  # as the length of a weight-normalized kernel
      row = _with_width(row, "vector", 1.0, 1.0, growth)
      return row._replace(why="a part of a kernel that is computed")
  row = row._replace(in_axes=first.op.in_axes, out_axes=first.op.out_axes)
  role = use_role(models, first)
  row = _with_width(row, role, first.growth_in, first.growth_out, first.growth)
  row = with_parts(models, row, first)
  after = first.op.place.site not in ends
  return _with_multiplier(models, row, first, after=after)


def _of_shape(models: Models, row: Scaling) -> Scaling:
  """Growths of a leaf whose use is not read: as of a kernel [..., in, out].

  For a role that is said by overrides; else they have no say.
  """
  pair = models.pairs[row.path]
  ratios = [
    n / max(m, 1) for n, m in zip(pair.shape, pair.base_shape, strict=True)
  ]
  growth_in, growth_out = [1.0, 1.0, *ratios][-2:]
  growth = vector_growth(pair, own_axes(row.path, None, models.flow))
  return row._replace(growth_in=growth_in, growth_out=growth_out, growth=growth)


def use_role(models: Models, use: Use) -> Role:
  """What grows there."""
  interior = use.op.place.site in models.flow.inner
  return role_of(use.growth_in, use.growth_out, use.growth, interior=interior)


def _with_width(
  row: Scaling, role: Role, growth_in: float, growth_out: float, growth: float
) -> Scaling:
  factors = width(role, growth_in, growth_out, growth)
  return row._replace(
    role=role,
    growth_in=growth_in,
    growth_out=growth_out,
    growth=growth,
    **factors._asdict(),
  )


def _with_multiplier(
  models: Models, row: Scaling, use: Use, *, after: bool
) -> Scaling:
  """A constant factor of the model itself, which differs in the base."""
  own, base = use.op.multiplier, use.base.multiplier
  if after:
    own *= factor_after(models.flow, use.op.place.site)
    base *= factor_after(models.base_flow, use.base.place.site)
  if own == base or not own or not base:
    return row
  why = f"the model multiplies it by {own:.4g}, and by {base:.4g} in the base"
  why = "; ".join(filter(None, (row.why, why)))
  return row._replace(absorbed=abs(base / own), why=why)


def _warn_of_widths(rows: Sequence[Scaling]) -> None:
  growths = {g for row in rows for g in (row.growth_in, row.growth_out)}
  if growths <= {1.0}:
    warnings.warn(
      "nothing grows from the base to the model: all factors of width are 1.",
      stacklevel=4,
    )
  elif max(growths) <= 1:
    warnings.warn(
      "the base is wider than the model: rates are meant to be tuned on a "
      "narrow base; are the two exchanged?",
      stacklevel=4,
    )


def _warn_of_classes(models: Models) -> None:
  widths = {use.growth_in for use in models.uses} | {1.0}
  for use in models.uses:
    is_last = use.op.place.site not in models.flow.inner
    if is_last and use.op.kind == "dot" and use.growth_out not in widths:
      warnings.warn(
        f"{use.path} has {use.op.fan_out:g} outputs, and {use.base.fan_out:g} "
        "in the base, which grow as no other width does: if these are classes, "
        "give both the same number.",
        stacklevel=4,
      )


def _notes(
  models: Models, row: Scaling, by_path: dict[str, list[Use]]
) -> list[str]:
  found = []
  roles = {use_role(models, use) for use in by_path[row.path]} - {"fixed"}
  if len(roles) > 1 and roles != {"input", "output"}:
    found.append(
      f"{row.path} has two roles: {' and '.join(sorted(roles))}; it is scaled "
      f"as {row.role}"
    )
    warnings.warn(found[-1], stacklevel=4)
  if row.role == "bottleneck":
    found.append(_bottleneck(models, row, by_path[row.path]))
  if row.role == "unknown":
    found.append(
      f"{row.path}: {row.why}; it keeps the base's rate. Say its role by "
      "overrides={path: {'role': ...}}"
    )
  if row.role == "hidden" and row.growth_out * _NARROW <= row.growth_in:
    found.append(
      f"{row.path}: fan_in grows × {row.growth_in:.4g}, fan_out only × "
      f"{row.growth_out:.4g}; the rule for hidden kernels takes them to grow "
      "alike"
    )
    warnings.warn(found[-1], stacklevel=4)
  return found


def _bottleneck(models: Models, row: Scaling, uses: Sequence[Use]) -> str:
  said = f"{row.path} is a bottleneck: fan_in grows, fan_out does not"
  sites = {use.op.place.site for use in uses}
  normed = any(
    {within.site for within in term.inner if within.kind == "output"} <= sites
    and all(within.kind in ("output", "bias") for within in term.inner)
    for op in models.own.graph.ops
    for term in terms_within(op.usual_feed.stream)
    if term.kind == "normalized"
  )
  if normed:
    said += "; a normalization follows and undoes the smaller init of its rule"
    warnings.warn(said, stacklevel=5)
  return said
