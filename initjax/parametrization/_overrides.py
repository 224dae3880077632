"""What users set themselves: roles and factors of leaves, by pattern."""

from collections.abc import Mapping, Sequence
from typing import Any

from initjax._checks import check_choice, check_number
from initjax._paths import check_where, matches, near_misses, where_text
from initjax.parametrization._rules import ROLES, width
from initjax.parametrization._scaling import Scaling

FIELDS = ("init", "adam", "sgd", "eps", "parameter_scaled", "muon", "absorbed")
Override = tuple[Any, dict[str, Any]]


def checked(given: Any) -> tuple[Override, ...]:
  """Pairs of a pattern and what it sets.

  Raises:
    ValueError: for anything else, or unknown names.
  """
  pairs = list(given.items()) if isinstance(given, Mapping) else given or ()
  found = []
  for pair in pairs:
    is_pair = isinstance(pair, Sequence) and len(pair) == 2
    if not is_pair or not isinstance(pair[1], Mapping):
      raise ValueError(
        "overrides are pairs (pattern, {'adam': 0.5}), or a dict of these; got "
        f"{pair!r}."
      )
    where, fields = pair
    check_where("the pattern of an override", where)
    for name, value in fields.items():
      check_choice("what an override sets", name, ("role", *FIELDS))
      if name == "role":
        check_choice("role", value, ROLES)
      else:
        check_number(name, value, low=0, open_low=True)
    found.append((where, dict(fields)))
  return tuple(found)


def with_role(row: Scaling, overrides: Sequence[Override]) -> Scaling:
  """The row, with the role that is said, and the factors of that.

  Growths are those of use; where it is not known, those of entries.
  """
  for where, fields in overrides:
    role = fields.get("role")
    if role is not None and matches(where, row.path, None):
      growths = row.growth_in, row.growth_out, row.growth
      factors = width(role, *growths)._asdict()
      why = f"role set by {where_text(where)}"
      return row._replace(role=role, **factors, why=why)
  return row


def overridden(
  rows: Sequence[Scaling], overrides: Sequence[Override]
) -> list[Scaling]:
  """Rows with factors that are said instead of those of the table.

  Raises:
    ValueError: for a pattern that matches no leaf.
  """
  found, hit = list(rows), set()
  for number, (where, fields) in enumerate(overrides):
    for place, row in enumerate(found):
      if matches(where, row.path, None):
        hit.add(number)
        numbers: dict[str, Any] = {
          n: float(v) for n, v in fields.items() if n != "role"
        }
        said = f"{', '.join(numbers)} set by {where_text(where)}"
        whys = [row.why, said] if numbers else [row.why]
        why = "; ".join(filter(None, whys))
        found[place] = row._replace(why=why, **numbers)
  for number, (where, _) in enumerate(overrides):
    if number not in hit:
      near = ", ".join(near_misses(where, [row.path for row in rows]))
      raise ValueError(
        f"the override of {where_text(where)!r} matches no leaf; near it: "
        f"{near}. A glob must match the whole path: begin it with *."
      )
  return found
