"""What loops carry from repeat to repeat, and what each repeat sees."""

import dataclasses
import itertools
from collections.abc import Callable

from initjax.graph._graph import Feed, LinearOp
from initjax.graph._place import Place, Scan, Site
from initjax.graph._reader import Reader
from initjax.graph._recurrences import note_recurrences
from initjax.graph._values import Value, joined, same_kind
from initjax.graph._view import sliced

_PASSES = 4


def settled(
  reader: Reader,
  body: Callable[[list[Value]], list[Value]],
  carry: list[Value],
  place: Place,
  name: str,
) -> list[Value]:
  """Reads a body until its carry is stable; keeps its first and last feeds."""
  # Each pass reads one more repeat, until the carry is of the kind it was: the
  # second names its streams, the third meets the names, and one that alternates
  # is left after the fourth. What touched a carry stays, so that set grows from
  # pass to pass until it holds everything, however many passes that takes.
  outputs, fed = body(carry), carry
  first = sites_under(reader, place)
  for turn in itertools.count():
    for before, value in zip(carry, outputs, strict=False):
      if value is not before:
        reader.use_as_data(before)
        reader.use_as_data(value)
    fed = list(map(_carried, carry, fed, outputs))
    outputs = body(fed)
    pairs = list(zip(fed, outputs, strict=False))
    closed = all(not after.touched & ~before.touched for before, after in pairs)
    is_settled = turn and all(same_kind(*pair) for pair in pairs)
    if closed and (is_settled or turn >= _PASSES - 2):
      break
  note_recurrences(reader, fed, outputs, place, name)
  for site, op in sites_under(reader, place).items():
    began = first[site].feed if site in first else Feed(reason="constant")
    later = op.feed
    reader.sites[site] = dataclasses.replace(op, feed=began, later_feed=later)
  return [*map(_carried, carry, fed, outputs), *outputs[len(carry) :]]


def _carried(began: Value, fed: Value, value: Value) -> Value:
  """A carry that changes is no view of a parameter, and no number."""
  if value is began:
    return value
  value = value.as_data if value.kind == "data" else joined((value,), "loop")
  return value.more_touched(fed.touched)


def sites_under(reader: Reader, place: Place) -> dict[Site, LinearOp]:
  """The operations found inside an equation."""
  size = len(place.site)
  return {
    site: op
    for site, op in reader.sites.items()
    if site[:size] == place.site and len(site) > size
  }


def slice_of(reader: Reader, value: Value, scan: Scan) -> Value:
  """The slice of a stacked operand that one repeat of a scan sees."""
  view = None if value.view is None else sliced(value.view, scan)
  if value.kind == "data":
    data = reader.data("slice", operands=(value,), kept=view is not None)
    return dataclasses.replace(data, view=view, choice=value.choice)
  if view is None:
    return value
  return dataclasses.replace(value, view=view, choice=None)


def stacked(reader: Reader, value: Value) -> Value:
  """A value of all repeats, as a scan hands it out."""
  if value.kind != "data":
    return joined((value,), "stack")
  return reader.data("reshape", operands=(value,))
