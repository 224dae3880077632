"""What all figures share: colours for every eye, theory dashed."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

COLORS = (
  "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
)  # fmt: skip
"""Okabe and Ito 2008"""
LOG10_2 = float(np.log10(2))
DIVERGED = ", until it diverges"
"""Of a line of accuracies with a gap."""
THEORY = {"linestyle": "--", "linewidth": 1.2, "alpha": 0.9}
"""Of a line that was computed, not measured."""


def check() -> None:
  """Raises ImportError, with what to install, if nothing can be drawn."""
  try:
    import matplotlib  # noqa: F401
  except ImportError as error:
    raise ImportError(
      "the figure needs matplotlib: pip install 'initjax[plot]'."
    ) from error


def colored(items: Iterable[T]) -> Iterator[tuple[T, str]]:
  """Each with its colour; after the seventh they recur."""
  return zip(items, itertools.cycle(COLORS))


def grid(rows: int, columns: int, **options: Any) -> tuple[Any, Any]:
  """A figure without a window, and its axes [rows, columns]."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
  axes = figure.subplots(rows, columns, squeeze=False, **options)
  for axis in axes.flat:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
  return figure, axes


def setting(figure: Any, text: str, x: float = 0.5) -> None:
  """A small line below all panels: what was run, and how large."""
  figure.supxlabel(text, fontsize=8, color="0.35", x=x)


def label(axis: Any, title: str, x: str, y: str, *, log: str = "") -> None:
  """Title and names of both directions; `log` names those with logarithms."""
  axis.set(title=title, xlabel=x, ylabel=y)
  for direction in log:
    axis.set(**{f"{direction}scale": "log"})


def law(
  axis: Any, x: Any, y: Any, label: str | None = None, color: Any = "black"
) -> None:
  """A dashed line: computed, not measured."""
  axis.plot(x, y, color=color, label=label, **THEORY)


def level(axis: Any, y: float, label: str) -> None:
  """A law that is the same everywhere."""
  axis.axhline(y, color="black", label=label, **THEORY)


def line_with_band(
  axis: Any,
  x: Any,
  values: Any,
  color: str,
  label: str | None = None,
  gap: str = "",
) -> None:
  """Mean over the first axis (seeds), and two standard errors around it.

  Those that are no number are left out; a gap where all are, and then `gap` is
  put after the label.
  """
  mean, error = of_finite(values)
  if label and np.isnan(mean).any():
    label += gap
  axis.plot(x, mean, color=color, label=label)
  axis.fill_between(
    x, mean - error, mean + error, color=color, alpha=0.2, linewidth=0
  )


def points(
  axis: Any, x: Any, values: Any, color: str, label: str | None = None
) -> None:
  """Mean over the first axis, and bars of two standard errors."""
  mean, error = mean_and_error(values)
  style = {"fmt": "o", "markersize": 4, "color": color, "label": label}
  axis.errorbar(x, mean, 2 * error, **style)


def mean_and_error(values: Any, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Mean over seeds, and its standard error."""
  values = np.asarray(values, np.float64)
  count = values.shape[axis]
  if count < 2:
    return values.mean(axis), np.full_like(values.mean(axis), np.nan)
  return values.mean(axis), values.std(axis, ddof=1) / np.sqrt(count)


def mean_and_two_errors(values: Any) -> tuple[float, float]:
  """Of numbers of independent networks: mean, and what it may err by.

  So many standard errors that one in 22 errs by more, as one does by two for
  many networks: Student's t, 2.4 for eight.
  """
  mean, error = mean_and_error(np.ravel(values))
  return float(mean), float(few_errors(np.size(values)) * error)


def few_errors(count: int) -> float:
  """What takes the place of two standard errors for so many networks."""
  from scipy import stats

  return float(stats.t.isf(stats.norm.sf(2), count - 1))


def of_finite(values: Any) -> tuple[np.ndarray, np.ndarray]:
  """Mean over the networks of the first axis, and two standard errors.

  NaN stands for a network that diverged, and is left out. The mean is NaN where
  no network is left, the error where fewer than two are.
  """
  values = np.asarray(values, np.float64)
  known = np.isfinite(values)
  count = known.sum(0)
  mean = np.where(known, values, 0).sum(0) / np.maximum(count, 1)
  squares = np.where(known, (values - mean) ** 2, 0).sum(0)
  error = 2 * np.sqrt(squares / np.maximum(count * (count - 1), 1))
  return np.where(count > 0, mean, np.nan), np.where(count > 1, error, np.nan)


def percent(mean: Any, error: Any) -> str:
  """A share and two standard errors, or that no network has a finite one."""
  if np.isnan(mean):
    return "diverged"
  return f"{mean:.1%}" + ("" if np.isnan(error) else f" ± {error:.1%}")
