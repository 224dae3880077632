"""What a coordinate check returns: exponents, verdicts, table, figure, page."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from initjax import reports
from initjax.parametrization._coordinates_figure import draw
from initjax.parametrization._coordinates_fit import bounds
from initjax.parametrization._coordinates_verdicts import Found, judgements
from initjax.reports import Column, Note, TextTable, short_paths
from initjax.typing import Record, Verdict

_NOUNS = ("signal", "change")


@dataclasses.dataclass(frozen=True, repr=False)
class CoordinateCheck:
  """How sizes scale with width, by operation and step.

  `print(check)` shows a table. See `initjax.coordinate_check`.
  """

  found: Found
  """sizes of all widths, seeds and steps, and their exponents"""
  verdicts: tuple[Verdict, ...]
  """what leaves the accepted range; `rows` count the records"""
  not_followed: Mapping[str, str]
  """parameters that are not measured: used in a way that is not read, or by
  each device alone (shard_map)"""

  @property
  def is_stable(self) -> bool:
    """Whether all sizes could be judged and were accepted."""
    return not self.verdicts

  def to_records(self) -> list[Record]:
    """Returns a plain dict per operation and repeat, in order of execution.

    `signal_exponent` and similar entries are lists over steps, starting from 0
    (the initial parameters); they hold NaN where there was nothing to fit.
    """
    found, words = self.found, judgements(self.found)
    records = []
    for row, operation in enumerate(found.operations):
      record: Record = operation._asdict()
      record["accepted"] = bounds(operation.kind)._asdict()
      for noun in _NOUNS:
        sizes = getattr(found.sizes, noun)[..., row]  # [widths, seeds, steps]
        record[f"{noun}_log2_size"] = sizes.mean(axis=1).tolist()
        for name, numbers in getattr(found, noun)._asdict().items():
          record[f"{noun}_{name}"] = numbers[:, row].tolist()
        record[f"{noun}_judgement"] = words[noun][:, row].tolist()
      records.append(record)
    return records

  def to_json(self, path: epath.PathLike) -> None:
    """Writes records, losses and verdicts as standard JSON.

    Raises:
      FileExistsError: if the file already exists; nothing is overwritten.
    """
    content = {
      "about": reports.about(self._about),
      "widths": self.found.widths,
      "steps": self.found.steps,
      "loss": self.found.sizes.loss.mean(axis=1),
      "records": self.to_records(),
      "is_stable": self.is_stable,
      "not_followed": dict(self.not_followed),
      "verdicts": [verdict._asdict() for verdict in self.verdicts],
    }
    reports.write_json(path, content)

  def to_html(
    self, path: epath.PathLike, title: str = "coordinate check"
  ) -> None:
    """Writes a standalone page with the verdicts, the figure and the table.

    Raises:
      FileExistsError: if the file already exists; nothing is overwritten.
    """
    page = reports.page(self._content, title, reports.about(self._about))
    reports.write_text(path, page)

  def plot(self, path: epath.PathLike | None = None) -> Any:
    """Draws sizes after the last step against width, with matplotlib.

    Args:
      path: where to write the figure as well; its ending selects the format:
        .png, .svg, .pdf.

    Raises:
      ImportError: if matplotlib is missing.
      FileExistsError: if the file already exists; nothing is overwritten.
    """
    figure = draw(self.found, self.verdicts, 9.0, 4.5)
    if path is not None:
      reports.write_figure(path, figure)
    return figure

  def __repr__(self) -> str:
    """Short: how much was measured, and what was found; `print` shows all."""
    ops, widths = len(self.found.operations), self.found.widths
    kinds = (f"{each.kind} ({each.severity})" for each in self.verdicts)
    said = ", ".join(kinds) or "stable"
    noun = f"operation{'s' * (ops != 1)}"
    return (
      f"CoordinateCheck({ops} {noun}, widths {widths[0]}…{widths[-1]}: {said})"
    )

  def __str__(self) -> str:
    return str(self.__rich__())

  def to_text(self, width: int = 100, encoding: str = "utf-8") -> str:
    """Returns the table as plain text, with no line wider than `width`.

    Args:
      width: in characters; if the columns do not fit, rows become a list.
      encoding: the encoding of the destination.

    Raises:
      ValueError: if `width` is too small.
    """
    return self.__rich__().to_text(width, encoding)

  def __rich__(self) -> TextTable:
    notes = [Note(""), Note(self._conclusion, "" if self.verdicts else "green")]
    for number, verdict in enumerate(self.verdicts, 1):
      where = f", {verdict.path}" if verdict.path else ""
      notes += [
        Note(""),
        Note(f"{number}. {verdict.kind} ({verdict.severity}){where}", "bold"),
        Note(verdict.message, indent=2),
        Note(verdict.fix, "bold", indent=6),
      ]
    return dataclasses.replace(self._table, notes=tuple(notes))

  def _repr_html_(self) -> str:
    return reports.fragment(self._content)

  @property
  def _about(self) -> list[tuple[str, str]]:
    widths = ", ".join(map(str, self.found.widths))
    seeds = self.found.sizes.loss.shape[1]
    steps = str(self.found.steps)
    return [("widths", widths), ("steps", steps), ("seeds", str(seeds))]

  @property
  def _conclusion(self) -> str:
    found, missed = self.found, reports.not_followed(self.not_followed)
    if any(verdict.severity == "error" for verdict in self.verdicts):
      said = "sizes depend on width"
    elif self.verdicts:
      said = "no size is seen to depend on width, but not all could be judged"
    else:
      said = (
        f"no size depends on width: {len(found.operations)} operations, widths "
        f"{found.widths[0]} to {found.widths[-1]}, steps {found.first_judged} "
        f"to {found.steps}"
      )
    return "; ".join(filter(None, (said, missed)))

  @property
  def _content(self) -> reports.Content:
    drawn = lambda *size: draw(self.found, self.verdicts, *size)
    return reports.Content(
      self._conclusion,
      self.is_stable and not self.not_followed,
      self.verdicts,
      self._table,
      drawn,
    )

  @property
  def _table(self) -> TextTable:
    records = [_row(record) for record in self.to_records()]
    names = short_paths(record["path"] for record in records)
    cells = [
      _exponent_column(noun, step)
      for noun in _NOUNS
      for step in _shown(self.found)
    ]
    severities = [""] * len(records)
    for verdict in reversed(self.verdicts):
      for row in verdict.rows:
        severities[row] = verdict.severity
    return TextTable(
      records,
      (
        Column("operation", lambda row: names[row["path"]]),
        Column("repeat", lambda row: ",".join(map(str, row["repeat"]))),
        Column("kind", lambda row: row["kind"]),
        *cells,
      ),
      crop=(("operation", 20),),
      drop=(("kind",),),
      severities=severities,
    )


def _shown(found: Found) -> list[int]:
  """The initial parameters, the first step that is judged, the last one."""
  return sorted({0, found.first_judged, found.steps})


def _row(record: Record) -> Record:
  """For a table, whose folds ask for fans and what feeds."""
  fans = {name: record[name][0] for name in ("fan_in", "fan_out")}
  return {**record, **fans, "fed_by": ""}


def _exponent_column(noun: str, step: int) -> Column:
  def one(record: Record) -> str:
    exponent = record[f"{noun}_exponent"][step]
    error = record[f"{noun}_error"][step]
    return "" if np.isnan(exponent) else f"{exponent:+.2f} ± {error:.2f}"

  def many(rows: Sequence[Record]) -> str:
    numbers = [row[f"{noun}_exponent"][step] for row in rows]
    known = [x for x in numbers if not np.isnan(x)]
    return f"{min(known):+.2f}…{max(known):+.2f}" if known else ""

  return Column(f"{noun} {step}", one, many, "exponent", is_number=True)
