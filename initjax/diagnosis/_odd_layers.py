"""Verdicts on single layers that are off: see `_innovations`."""

import math
from collections.abc import Iterator

from initjax.diagnosis._fixes import fix
from initjax.diagnosis._innovations import Innovation
from initjax.diagnosis._observe import Observed
from initjax.graph import Row
from initjax.reports import NOUNS
from initjax.typing import Verdict

ODD = "odd layer"
"""the kind of these verdicts"""
_GRAVE = 5.0  # log₂ of the second moment: a factor 5.7 in size


def check_layers(observed: Observed) -> Iterator[Verdict]:
  """One verdict for each odd layer, and for neighbours that are odd."""
  rows = observed.found.rows
  for group in observed.odd():
    grave = any(_is_grave(one) for one in group)
    yield Verdict(
      ODD,
      "error" if grave else "warning",
      rows[group[0].row].op.path,
      _message(group, rows),
      _fix(group),
      tuple(one.row for one in group),
    )


def _is_grave(one: Innovation) -> bool:
  return one.is_fresh and one.most > _GRAVE


def _message(group: list[Innovation], rows: tuple[Row, ...]) -> str:
  told = "; ".join(f"{_name(rows[one.row])} {_sizes(one)}" for one in group)
  likely = max(1e-99, *(one.p for one in group))
  start, end = "One layer is unlike its neighbours.", ""
  if len(group) > 1:
    start = "Some layers are unlike their neighbours."
    end = " They are consecutive, and their effects may cancel."
  return (
    f"{start} Beyond what the others do, {told}.{end} That is far beyond "
    f"{group[0].law}: it would happen less than once in "
    f"10^{-math.log10(likely):.0f} healthy models."
  )


def _sizes(one: Innovation) -> str:
  both = sorted(one.bits.items(), reverse=True)
  told = (f"that of the {NOUNS[way]} by 2^{bits:+.1f}" for way, bits in both)
  text = " and ".join(told).removeprefix("that of ")
  return f"multiplies the second moment of {text}"


def _name(row: Row) -> str:
  repeats = ", ".join(map(str, row.repeat))
  return row.op.path + (f" repeat {repeats}" if repeats else "")


def _fix(group: list[Innovation]) -> str:
  bits = next(iter(group[0].bits.values()))
  return fix(
    "",
    f"multiply its kernel by {2 ** (-bits / 2):.2g}, or draw it like its "
    "neighbours; or remove a scale factor beside it",
  )
