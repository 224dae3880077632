"""Rules that set or scale leaves; the first that matches a leaf applies."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._checks import check_key
from initjax._paths import (
  Where,
  check_target,
  check_where,
  is_float,
  key_of,
  leaves_by_path,
  map_floats,
  matches,
  near_misses,
  where_text,
)
from initjax.recipes._layouts import Layout, layouts, misread
from initjax.reports import Column, TextTable, leaf_table
from initjax.typing import Initializer

Rule = tuple[Where, Initializer | float]
Leaf = jax.Array | np.ndarray | jax.ShapeDtypeStruct


class PlanRow(NamedTuple):
  """What the rules do to one leaf."""

  path: str
  shape: tuple[int, ...]
  dtype: str
  rule: int | None
  """the first that matches, counted from 0; None if the leaf stays"""
  action: str
  """"draw", "× factor" or "keep" """
  shadowed: tuple[int, ...]
  """later rules that match, too"""


class RulesPlan(NamedTuple):
  """What the rules would do; `print(plan)` shows a table."""

  rows: tuple[PlanRow, ...]
  patterns: tuple[str, ...]
  """of the rules, in their order"""

  @property
  def untouched(self) -> tuple[str, ...]:
    """Paths of the leaves that no rule changes."""
    return tuple(row.path for row in self.rows if row.rule is None)

  def __str__(self) -> str:
    return str(_rules_table(self))


def _rules_table(plan: RulesPlan) -> TextTable:
  names = {at: f"{at}: {where}" for at, where in enumerate(plan.patterns)}
  columns = (
    Column("action", lambda row: row["action"]),
    Column("rule", lambda row: names.get(row["rule"], "")),
    Column("shadowed", lambda row: ", ".join(map(str, row["shadowed"]))),
  )
  return leaf_table(plan.rows, columns, ("rule", 16))


@dataclasses.dataclass(frozen=True)
class Rules:
  """Rules in order; see `rules`."""

  pairs: tuple[Rule, ...]

  def plan(self, params: Any) -> RulesPlan:
    """Returns what `apply` would do with every leaf, without changing anything.

    Raises:
      ValueError: if a rule matches no leaf.
    """
    patterns = [where for where, _ in self.pairs]
    rows: list[PlanRow] = []
    hit: set[int] = set()
    for path, leaf in leaves_by_path(params).items():
      if hasattr(leaf, "dtype"):
        found = [
          number
          for number, where in enumerate(patterns)
          if is_float(leaf) and matches(where, path, leaf)
        ]
        hit.update(found)
        rows.append(_plan_row(self.pairs, path, leaf, found))
    for number, where in enumerate(patterns):
      if number not in hit:
        _raise_unmatched(number, where, [row.path for row in rows])
    return RulesPlan(tuple(rows), tuple(map(where_text, patterns)))

  def apply(self, key: jax.Array | None, params: Any) -> Any:
    """Returns the parameters as set and scaled by the rules.

    Every leaf is drawn with a key derived from its path alone, so the other
    leaves do not affect it. The dtype, the sharding and the box around a leaf
    are kept (unless JAX has no such dtype: NumPy's float64 becomes float32 if
    x64 is off).

    Args:
      key: may be None if no rule draws.
      params: any tree of arrays; leaves that an initializer sets may be
        abstract.

    Raises:
      ValueError: if a rule matches no leaf, or scales an abstract one.
      TypeError: if a rule draws and `key` is not a key.

    Warns:
      UserWarning: if an initializer takes the outputs of an Equinox layer,
        whose kernels are [out, in], for its inputs.
    """
    if key is not None or any(callable(target) for _, target in self.pairs):
      check_key(key)
    plan = self.plan(params)
    self._warn_of_layouts(plan, layouts(params))
    first = {row.path: row.rule for row in plan.rows}

    def visit(path: str, leaf: Leaf) -> Leaf:
      rule = first[path]
      if rule is None:
        return leaf
      target = self.pairs[rule][1]
      if not callable(target):
        return _scaled_leaf(path, leaf, float(target))
      assert key is not None
      return _drawn_leaf(path, key_of(key, path), leaf, target)

    return map_floats(visit, params)

  def _warn_of_layouts(
    self, plan: RulesPlan, known: Mapping[str, Layout]
  ) -> None:
    """Once for each rule whose initializer takes outputs for inputs."""
    warned: set[int] = set()
    for row in plan.rows:
      if row.rule is None or row.rule in warned or row.path not in known:
        continue
      target = self.pairs[row.rule][1]
      wrong = misread(target, row.shape, known[row.path])
      if wrong is not None:
        warned.add(row.rule)
        message = f"rule {row.rule} draws {row.path}, {wrong}"
        warnings.warn(message, stacklevel=3)


def rules(pairs: Sequence[Rule]) -> Rules:
  """Rules `(where, what)` for the leaves of any tree; the first match wins.

  `where` is a glob over the leaf's path, whose names are joined by "/" (`*`
  matches any text, including slashes), a `re.Pattern` to search for in the
  path, a predicate `(path, leaf)`, or a list of these. `what` is an
  initializer, or a number that scales the leaf. Leaves that no rule matches,
  and those that are not floats (counters, random keys), are left unchanged.
  Flax boxes and NNX variables do not appear in paths.

  Args:
    pairs: the rules, in order.

  Raises:
    ValueError: if a rule is not such a pair.

  >>> params = {"Dense_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
  >>> halved = rules([("*/kernel", 0.5)])
  >>> halved.apply(None, params)["Dense_0"]["kernel"][0]
  Array([0.5, 0.5], dtype=float32)
  >>> halved.plan(params).untouched
  ('Dense_0/bias',)

  Reference: rules over parameter paths are common practice in JAX, such as
  the partition rules of T5X (Roberts et al. 2022).
  """
  checked: list[Rule] = []
  for pair in pairs:
    is_pair = isinstance(pair, Sequence) and not isinstance(pair, str)
    if not is_pair or len(pair) != 2:
      raise ValueError(f"a rule is a pair (where, what); got {pair!r}.")
    where, target = pair
    check_where("the pattern of a rule", where)
    check_target(target)
    checked.append((where, target))
  return Rules(tuple(checked))


def _plan_row(
  pairs: tuple[Rule, ...], path: str, leaf: Leaf, found: list[int]
) -> PlanRow:
  rule, action = None, "keep"
  if found:
    rule, target = found[0], pairs[found[0]][1]
    action = "draw" if callable(target) else f"× {target:.4g}"
  shape, dtype = tuple(leaf.shape), str(leaf.dtype)
  return PlanRow(path, shape, dtype, rule, action, tuple(found[1:]))


def _raise_unmatched(number: int, where: Where, paths: list[str]) -> None:
  near = ", ".join(near_misses(where, paths)) or "no leaf at all"
  raise ValueError(
    f"rule {number}, {where_text(where)!r}, matches no leaf of floats; near "
    f"it: {near}. A glob must match the whole path: begin it with *."
  )


def dtype_of(leaf: Leaf) -> np.dtype:
  """The dtype that the leaf has in JAX: float32 for NumPy's float64 at x32."""
  return jax.dtypes.canonicalize_dtype(leaf.dtype)


def _scaled_leaf(path: str, leaf: Leaf, factor: float) -> jax.Array:
  if isinstance(leaf, jax.ShapeDtypeStruct):
    raise ValueError(
      f"{path} is abstract and cannot be scaled by {factor:g}; draw it first, "
      "or give the rule an initializer."
    )
  dtype = dtype_of(leaf)
  wide = jnp.promote_types(dtype, jnp.float32)
  return (jnp.asarray(leaf, wide) * factor).astype(dtype)


def _drawn_leaf(
  path: str, key: jax.Array, leaf: Leaf, init: Initializer
) -> jax.Array:
  shape, dtype = tuple(leaf.shape), dtype_of(leaf)
  draw = lambda key: jnp.asarray(init(key, shape, dtype), dtype)
  traced = isinstance(leaf, jax.core.Tracer)
  sharding = None if traced else getattr(leaf, "sharding", None)
  if isinstance(sharding, jax.sharding.NamedSharding):
    draw = jax.jit(draw, out_shardings=sharding)
  drawn = draw(key)
  if drawn.shape != shape:
    raise ValueError(
      f"the initializer of {path} gave shape {drawn.shape}; wanted {shape}."
    )
  return drawn
