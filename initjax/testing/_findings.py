"""What an assertion finds, and how it tells of it: all at once, as tables."""

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from initjax.diagnosis._causes import explain, typical
from initjax.diagnosis._law import Drift
from initjax.diagnosis._observe import Observed
from initjax.typing import Verdict

_MOST_LINES = 8
_NOUNS = {"forward": "signal", "backward": "gradient"}
_UNITS = {"forward": "log₂ E[z²]", "backward": "log₂ Σδ²"}


class Finding(NamedTuple):
  """One violation."""

  message: str
  header: tuple[str, ...] = ()
  lines: tuple[tuple[str, ...], ...] = ()
  """of the table"""
  fix: str = ""


def raise_all(findings: Sequence[Finding]) -> None:
  """Raises one AssertionError that tells of all findings, if there are any."""
  if findings:
    raise AssertionError("\n\n".join(map(_text, findings)))


def _text(finding: Finding) -> str:
  parts = [finding.message]
  if finding.lines:
    parts.append(_table(finding.header, finding.lines))
  if finding.fix:
    parts.append("To mend it:\n" + _indented(finding.fix))
  return "\n".join(parts)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  from rich.console import Console
  from rich.table import Table

  grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  for number, title in enumerate(header):
    grid.add_column(title, justify="right" if number else "left", no_wrap=True)
  for line in lines:
    grid.add_row(*line)
  file = io.StringIO()
  Console(file=file, width=100, color_system=None, markup=False).print(grid)
  rows = (row.rstrip() for row in file.getvalue().splitlines())
  return _indented("\n".join(rows))


def _indented(text: str) -> str:
  return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def of_verdict(observed: Observed, verdict: Verdict) -> Finding:
  """A verdict, with the sizes of the rows that show it."""
  header = ("operation", "log₂ E[z²]", "log₂ E[δ²]")
  lines = []
  for row in _some(verdict.rows):
    record = observed.records[row]
    sizes = (
      f"{record[f'{direction}_log2_second_moment']:.2f}" for direction in _NOUNS
    )
    lines.append((_name(observed, row), *sizes))
  where = f" at {verdict.path}" if verdict.path else ""
  message = f"{verdict.kind.capitalize()}{where}: {verdict.message}"
  return Finding(message, header, tuple(lines), verdict.fix)


def of_drift(
  observed: Observed, direction: str, drift: Drift, false_alarm: float
) -> Iterator[Finding]:
  """A drift beyond what chance does in all but `false_alarm` of all draws."""
  from statistics import NormalDist

  allowed = -NormalDist().inv_cdf(false_alarm / 2)
  if abs(drift.sigmas) <= allowed or observed.chain is None:
    return
  rows = observed.chain.rows
  margin = drift.margin(allowed)
  off = abs(drift.measured - drift.expected) > margin
  shown = [at for at in range(len(rows)) if off[at]] or range(len(rows))
  lines = [
    (
      _name(observed, rows[at]),
      f"{drift.measured[at]:.2f}",
      f"{drift.expected[at]:.2f} ± {margin[at]:.2f}",
    )
    for at in _some(shown)
  ]
  ops = [observed.ops[row] for row in rows]
  layer = typical(ops, observed.leaves)
  steps = len(rows) - 1
  growth = (drift.measured[-1] - drift.measured[0]) / steps
  growth = growth if direction == "forward" else -growth
  cause, fix = explain(direction, growth, layer, len(ops))
  noun = _NOUNS[direction]
  yield Finding(
    f"The {noun} is not stable: over {len(rows)} operations its "
    f"{_UNITS[direction]} drifts by {drift.per_layer:+.3g} ± {drift.error:.2g} "
    f"per layer against a healthy {noun}, which is {abs(drift.sigmas):.1f} "
    f"standard deviations of what chance does at these widths; "
    f"{allowed:.2f} are allowed.\n{cause}",
    ("operation", "measured", "healthy"),
    tuple(lines),
    fix,
  )


def _name(observed: Observed, row: int) -> str:
  record = observed.records[row]
  repeat = ", ".join(map(str, record["repeat"]))
  return record["path"] + (f" repeat {repeat}" if repeat else "")


def _some(rows: Sequence[int]) -> list[int]:
  """At most eight of them, the first and the last included."""
  if len(rows) <= _MOST_LINES:
    return list(rows)
  step = (len(rows) - 1) / (_MOST_LINES - 1)
  return [rows[round(i * step)] for i in range(_MOST_LINES)]
