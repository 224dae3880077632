"""What `measure` returns, and how it is converted to plain rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from etils import epath

from initjax import reports
from initjax._sharding import fetched
from initjax._statistics import Statistics, Tally
from initjax.graph import SignalGraph
from initjax.measurement._norms import Norms
from initjax.measurement._row_statistics import row_statistics, to_records
from initjax.typing import Record, Verdict

_STATIC = {"static": True}  # no leaf, but known when a program is traced


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class SignalReport:
  """Statistics of every linear operation: a pytree, so it passes through jit.

  Rows are in the order of `graph.ops`. Under scans the leaves of a row have the
  lengths of the scans as last axes; under vmap (several parameter draws) they
  have one more axis in front.
  """

  forward_tallies: tuple[Tally, ...]
  backward_tallies: tuple[Tally, ...]
  detail_sums: tuple[jax.Array, ...] | None
  """with `detail=True`, the sums from which each `Detail` is computed"""
  slopes: tuple[tuple[Any, Any], ...] | None
  """with `detail=True`, E|φ'| of what feeds each operation, at its source"""
  norms: Norms | None
  """with `detail=True`, norms of the gradients: see `gradient_norms`"""
  graph: SignalGraph = field(metadata=_STATIC)
  """the graph whose operations the rows describe"""
  verdicts: tuple[Verdict, ...] = field(default=(), metadata=_STATIC)
  """what `diagnose` found"""
  bands: tuple[Any, ...] = field(default=(), metadata=_STATIC)
  """for each record, log₂ second moments a healthy network may show:
  (forward low, high), (backward low, high); None where no law is known"""
  predicted: tuple[Any, ...] = field(default=(), metadata=_STATIC)
  """for each record, what theory predicts for its weights: log₂ second moments
  forward and backward, None where it is silent, and why it stops there"""
  judged: bool = field(default=False, metadata=_STATIC)
  """whether `diagnose` had operations to judge, and did; if not, an absence of
  verdicts means nothing"""
  unjudged: tuple[tuple[int, str], ...] = field(default=(), metadata=_STATIC)
  """records whose growth `diagnose` could not judge, by number, with reasons"""

  about: tuple[tuple[str, str], ...] = field(default=(), metadata=_STATIC)
  """what was measured, in words, for the head of a page: name and value"""

  @property
  def forward(self) -> tuple[Statistics, ...]:
    """Statistics of each operation's output, before its bias."""
    return tuple(tally.statistics() for tally in self.forward_tallies)

  @property
  def backward(self) -> tuple[Statistics, ...]:
    """Statistics of the gradient with respect to that output."""
    return tuple(tally.statistics() for tally in self.backward_tallies)

  def to_records(self) -> list[Record]:
    """Returns plain dicts, one for each operation and repeat.

    They are in the order of execution. Several draws are averaged in logarithms
    (a geometric mean), except that `largest` and `nonfinite` give the worst
    draw. `draws` then holds their number, and
    `forward_log2_second_moment_std` their spread.
    """
    return to_records(row_statistics(self), self.bands, self.predicted)

  @property
  def gradient_norms(self) -> dict[str, jax.Array] | None:
    """With `detail=True`, the Euclidean norm of each parameter's gradient."""
    return None if self.norms is None else self.norms.by_path()

  @property
  def _found(self) -> tuple[Verdict, ...] | None:
    """The verdicts; None if nobody judged."""
    return self.verdicts if self.judged or self.verdicts else None

  @property
  def _missed(self) -> dict[str, str]:
    return self.graph.not_followed

  def __repr__(self) -> str:
    """Short: how many operations, and what was found; `print` shows all."""
    ops = len(self.graph)
    said = f"{ops} operation{'s' * (ops != 1)}"
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(self)):
      return f"SignalReport({said}, being traced)"
    if self._missed:
      said += f", {len(self._missed)} parameters not followed"
    if self._found is None:
      return f"SignalReport({said}, not judged)"
    kinds = (f"{each.kind} ({each.severity})" for each in self._found)
    return f"SignalReport({said}: {', '.join(kinds) or 'no problems found'})"

  def __str__(self) -> str:
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(self)):
      return repr(self)
    table = reports.table(self.to_records(), self._found, missed=self._missed)
    return "\n".join((str(table).rstrip("\n"), *self._unjudged_lines()))

  def _unjudged_lines(self) -> list[str]:
    """One line for each reason, with the operations that it is about."""
    by_reason: dict[str, list[str]] = {}
    for row, reason in self.unjudged:
      paths = by_reason.setdefault(reason, [])
      path = self.graph.rows[row].op.path or "(constant)"
      if path not in paths:
        paths.append(path)
    return [
      f"growth not judged at {', '.join(paths[:3])}"
      f"{f' and {len(paths) - 3} more' * (len(paths) > 3)}: {reason}"
      for reason, paths in by_reason.items()
    ]

  def _repr_html_(self) -> str:
    return reports.html_fragment(
      self.to_records(), self._found, missed=self._missed
    )

  def with_about(self, about: Mapping[str, str]) -> "SignalReport":
    """Returns the same report with more notes about what was measured.

    Args:
      about: such as {"model": "mlp", "seed": "0"}; shown in JSON and pages.
    """
    return replace(self, about=tuple({**dict(self.about), **about}.items()))

  def to_json(self, path: epath.PathLike) -> None:
    """Writes records, verdicts and gradient norms as standard JSON.

    `not_followed` comes from the graph and lists what the records leave out.

    Without verdicts, `judged` tells a healthy model from one never judged.

    Raises:
      FileExistsError: if the file already exists; nothing is overwritten.
    """
    content = {
      "about": reports.about(self.about),
      "records": self.to_records(),
      "judged": self.judged,
      "unjudged": [
        {"row": row, "reason": reason} for row, reason in self.unjudged
      ],
      "not_followed": self._missed,
      "verdicts": [verdict._asdict() for verdict in self.verdicts],
      "gradient_norms": {}
      if self.norms is None
      else fetched(self.norms).by_path(),
    }
    reports.write_json(path, content)

  def to_html(self, path: epath.PathLike, title: str = "initjax") -> None:
    """Writes one standalone page with verdicts, figure and table.

    Raises:
      FileExistsError: if the file already exists; nothing is overwritten.
    """
    page = reports.html(
      self.to_records(),
      self._found,
      title,
      missed=self._missed,
      about=reports.about(self.about),
    )
    reports.write_text(path, page)

  def plot(self, path: epath.PathLike | None = None) -> Any:
    """Plots log₂ second moments against depth, forward and backward.

    Args:
      path: where to save the figure as well: .png, .svg or .pdf.

    Raises:
      ImportError: if matplotlib is missing.
      FileExistsError: if the file already exists; nothing is overwritten.
    """
    figure = reports.figure(self.to_records(), self.verdicts)
    if path is not None:
      reports.write_figure(path, figure)
    return figure
