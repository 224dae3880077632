"""Verdicts on single layers that are off: see `_innovations`."""

from collections.abc import Iterator

from initjax.diagnosis._fixes import fix
from initjax.diagnosis._innovations import Innovation, innovations
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
  for group in innovations(observed):
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
  return one.is_fresh and max(map(abs, one.bits.values())) > _GRAVE


def _message(group: list[Innovation], rows: tuple[Row, ...]) -> str:
  told = "; ".join(f"{_name(rows[one.row])}: {_sizes(one)}" for one in group)
  likely = max(one.p for one in group)
  chance = f"less than once in {1 / likely:.0e}" if likely > 1e-99 else "never"
  together = ""
  if len(group) > 1:
    together = " These follow each other, so that they may cancel."
  return (
    "It changes sizes as no other operation around it does, by factors in "
    f"the second moment beyond theirs: {told}.{together} That is far beyond "
    f"{group[0].law}: {chance} in a healthy model."
  )


def _sizes(one: Innovation) -> str:
  return ", ".join(
    f"{NOUNS[direction]} 2^{bits:+.1f}"
    for direction, bits in sorted(one.bits.items(), reverse=True)
  )


def _name(row: Row) -> str:
  repeats = ", ".join(map(str, row.repeat))
  return row.op.path + (f" repeat {repeats}" if repeats else "")


def _fix(group: list[Innovation]) -> str:
  bits = next(iter(group[0].bits.values()))
  return fix(
    "",
    f"multiply its kernel by {2 ** (-bits / 2):.2g}, or draw it as its "
    "neighbours are; or take away a scale factor beside it",
  )
