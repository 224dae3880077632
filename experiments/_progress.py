"""How far a run is, at what rate, and how long it will take."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_SECONDS = 10.0  # between lines, where there is no terminal

Advance = Callable[..., None]
"""(label, total, part=""): one more item of `total` is done"""


@contextlib.contextmanager
def progress(name: str, *, quiet: bool = False) -> Iterator[Advance]:
  """What a `Job` tells of its items: a bar, or lines if stderr is a file."""
  import rich.console

  console = rich.console.Console(stderr=True)
  if quiet:
    yield lambda label, total, part="": None
  elif console.is_terminal:
    with _bars(console) as bars:
      yield _on_bars(bars, name)
  else:
    yield _in_lines(name)


def _bars(console: Any) -> Any:
  import rich.progress as progress

  return progress.Progress(
    progress.TextColumn("{task.description}"),
    progress.BarColumn(),
    progress.MofNCompleteColumn(),
    progress.TimeElapsedColumn(),
    progress.TimeRemainingColumn(elapsed_when_finished=True),
    progress.TextColumn("{task.fields[label]}"),
    console=console,
  )


def _on_bars(bars: Any, name: str) -> Advance:
  tasks: dict[tuple[str, int], Any] = {}

  def advance(label: str, total: int, part: str = "") -> None:
    task = tasks.get((part, total))
    if task is None or bars.tasks[task].finished:
      title = f"{name}, {part}" if part else name
      task = bars.add_task(title, total=total, label=label)
      tasks[part, total] = task
    bars.update(task, advance=1, label=label)

  return advance


def _in_lines(
  name: str, clock: Callable[[], float] = time.monotonic
) -> Advance:
  """A line on stderr every ten seconds, and at the end of a list."""
  stages: dict[tuple[str, int], tuple[float, int]] = {}  # since when, how many
  event = printed = clock()

  def advance(label: str, total: int, part: str = "") -> None:
    nonlocal event, printed
    since, done = stages.get((part, total), (event, 0))
    stages[part, total] = since, done + 1
    event = clock()
    if done + 1 == total:
      del stages[part, total]
    elif event - printed < _SECONDS:
      return
    printed = event
    pace = (event - since) / (done + 1)
    print(
      f"{name}{part and ', '}{part} {done + 1}/{total} ({label}): "
      f"{pace:.3g} s each, {pace * (total - done - 1):.0f} s left",
      file=sys.stderr,
    )

  return advance
