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


def line_with_band(
  axis: Any, x: Any, values: Any, color: str, label: str | None = None
) -> None:
  """Mean over the first axis (seeds), and two standard errors around it."""
  values = np.asarray(values, np.float64)
  mean = values.mean(0)
  axis.plot(x, mean, color=color, label=label)
  if len(values) > 1:
    error = 2 * values.std(0, ddof=1) / np.sqrt(len(values))
    axis.fill_between(
      x, mean - error, mean + error, color=color, alpha=0.2, linewidth=0
    )


def mean_and_error(values: Any, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Mean over seeds, and its standard error."""
  values = np.asarray(values, np.float64)
  count = values.shape[axis]
  if count < 2:
    return values.mean(axis), np.full_like(values.mean(axis), np.nan)
  return values.mean(axis), values.std(axis, ddof=1) / np.sqrt(count)
