"""What an assertion finds, and how it reports it: all at once, as tables."""

import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from initjax.diagnosis import Chain, Drift, Observed, cause_of_drift
from initjax.reports import NOUNS, Column, TextTable, not_followed
from initjax.typing import Verdict

_MOST_LINES = 8
_UNITS = {"forward": "log₂ E[z²]", "backward": "log₂ Σδ²"}


class Finding(NamedTuple):
  """One violation."""

  message: str
  table: str = ""
  fix: str = ""


def raise_all(
  findings: Sequence[Finding], missed: Mapping[str, str], stacklevel: int
) -> None:
  """Raises one AssertionError that tells of all findings, if there are any.

  It tells of parameters that were `missed`; without findings, a warning does.
  """
  texts = []
  unseen = not_followed(missed)
  for message, table, fix in findings:
    mended = "Suggested fix:\n" + _indented(fix) if fix else ""
    parts = (message, _indented(table), mended)
    texts.append("\n".join(filter(None, parts)))
  if texts:
    raise AssertionError("\n\n".join(filter(None, (*texts, unseen))))
  if unseen:
    said = f"no problems found in what was followed, but {unseen}"
    warnings.warn(said, stacklevel=stacklevel)


def table_of(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  """Names and numbers; "" if there are none."""
  columns = [
    Column(title, operator.itemgetter(title), is_number=place > 0)
    for place, title in enumerate(header)
  ]
  records = [dict(zip(header, line, strict=True)) for line in lines]
  table = TextTable(records, columns, crop=((header[0], 20),), folds=False)
  return table.to_text() if lines else ""


def _indented(text: str) -> str:
  return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def of_verdict(observed: Observed, verdict: Verdict) -> Finding:
  """A verdict, with the sizes of the rows that show it."""
  header = ("operation", "log₂ E[z²]", "log₂ E[δ²]")
  lines = []
  for row in _at_most_eight(verdict.rows):
    sizes = (
      f"{observed.found.along(direction).log2_second_moment[row]:.2f}"
      for direction in NOUNS
    )
    lines.append((_name(observed, row), *sizes))
  where = f" at {verdict.path}" if verdict.path else ""
  message = f"{verdict.kind.capitalize()}{where}: {verdict.message}"
  return Finding(message, table_of(header, lines), verdict.fix)


def of_drift(
  observed: Observed, chain: Chain, direction: str, drift: Drift, allowed: float
) -> Finding:
  """A drift beyond so many standard deviations of what chance does."""
  margin = drift.margin(allowed)
  off = abs(drift.measured - drift.expected) > margin
  shown = np.flatnonzero(off).tolist() or range(chain.length)
  lines = [
    (
      _name(observed, chain.rows[at]),
      f"{drift.measured[at]:.2f}",
      f"{drift.expected[at]:.2f} ± {margin[at]:.2f}",
    )
    for at in _at_most_eight(shown)
  ]
  cause, fix = cause_of_drift(observed, chain, direction, drift)
  noun = NOUNS[direction]
  return Finding(
    f"The {noun} is not stable: over {chain.length} operations its "
    f"{_UNITS[direction]} drifts by {drift.per_layer:+.3g} ± "
    f"{drift.error:.2g} per layer compared with a healthy {noun}. That is "
    f"{abs(drift.sigmas):.1f} standard deviations of what chance does at "
    f"these widths, where {allowed:.2f} are allowed.\n{cause}",
    table_of(("operation", "measured", "healthy"), lines),
    fix,
  )


def _name(observed: Observed, row: int) -> str:
  _, op, repeat = observed.found.rows[row]
  return op.path + (f" repeat {', '.join(map(str, repeat))}" if repeat else "")


def _at_most_eight(rows: Sequence[int]) -> list[int]:
  """At most eight of them, the first and the last included."""
  if len(rows) <= _MOST_LINES:
    return list(rows)
  step = (len(rows) - 1) / (_MOST_LINES - 1)
  return [rows[round(i * step)] for i in range(_MOST_LINES)]
