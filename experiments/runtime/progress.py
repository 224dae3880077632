"""How far a run is, at what rate, and how long it will take."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_SECONDS = 10.0  # between lines, where there is no terminal

Advance = Callable[..., None]
"""(label, total, part="", was_kept=False): one more item of `total` is done;
kept if an earlier run did it"""


def silent(
  label: str, total: int, part: str = "", was_kept: bool = False
) -> None:
  """Tells nobody."""


@contextlib.contextmanager
def progress(name: str, *, quiet: bool = False) -> Iterator[Advance]:
  """What a `Job` tells of its items: a bar, or lines if stderr is a file."""
  import rich.console

  console = rich.console.Console(stderr=True)
  if quiet:
    yield silent
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

  def advance(
    label: str, total: int, part: str = "", was_kept: bool = False
  ) -> None:
    del was_kept  # the bar's own pace is that of the last items
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
  stages: dict[tuple[str, int], tuple[float, int, int]] = {}
  event = printed = clock()

  def advance(
    label: str, total: int, part: str = "", was_kept: bool = False
  ) -> None:
    nonlocal event, printed
    seconds, computed, done = stages.get((part, total), (0.0, 0, 0))
    before, event = event, clock()
    done += 1
    if not was_kept:
      seconds, computed = seconds + event - before, computed + 1
    stages[part, total] = seconds, computed, done
    if done == total:
      del stages[part, total]
    elif event - printed < _SECONDS:
      return
    if not computed:
      return
    printed = event
    pace = seconds / computed
    print(
      f"{name}{part and ', '}{part} {done}/{total} ({label}): "
      f"{pace:.3g} s each, {pace * (total - done):.0f} s left",
      file=sys.stderr,
    )

  return advance
