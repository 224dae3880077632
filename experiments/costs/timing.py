"""Shared by scripts that compare costs: times, a table, optional peers."""

import functools
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import rich.table

from experiments.runtime.experiment import Result


def seconds(
  function: Callable[..., Any], *arguments: Any, **options: Any
) -> float:
  """Of one call, its result waited for."""
  start = time.perf_counter()
  jax.block_until_ready(function(*arguments, **options))
  return time.perf_counter() - start


def calls(
  programs: Mapping[str, Callable[..., Any]], *arguments: Any
) -> dict[str, Callable[[], float]]:
  """What times each of them with these arguments, for `in_turn`."""
  return {
    name: functools.partial(seconds, program, *arguments)
    for name, program in programs.items()
  }


def in_turn(
  timed: dict[str, Callable[[], float]], runs: int
) -> dict[str, float]:
  """Median seconds of each, all run in every round."""
  rounds = [{name: run() for name, run in timed.items()} for _ in range(runs)]
  return {name: statistics.median(r[name] for r in rounds) for name in timed}


def torch_is_installed() -> bool:
  """Whether there is a PyTorch to compare with."""
  return importlib.util.find_spec("torch") is not None


def result(title: str, peer: str, columns: Result) -> Result:
  """For `tables`; says if the peer is missing."""
  missing = f"torch is not installed: no comparison with {peer}."
  note = "" if torch_is_installed() else missing
  return {"title": title, "note": note, "columns": columns}


def tables(result: Result) -> list[rich.table.Table]:
  """One column for each form or way, one row for each number."""
  columns = result["columns"]
  table = rich.table.Table(
    title=result["title"], caption=result["note"], box=None
  )
  table.add_column("", no_wrap=True)
  for name in columns:
    table.add_column(name, justify="right")
  rows = dict.fromkeys(row for column in columns.values() for row in column)
  for row in rows:
    cells = (column.get(row) for column in columns.values())
    table.add_row(row, *("" if x is None else f"{x:.3g}" for x in cells))
  return [table]
