"""A progress bar for anything that takes more than a few seconds."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

PATIENCE = 3.0
"""seconds before a bar appears"""

Item = TypeVar("Item")


def watched(items: Sequence[Item], progress: bool | None) -> Iterator[Item]:
  """The items, with a bar on stderr once they have taken long."""
  wanted = sys.stderr.isatty() if progress is None else progress
  patience = PATIENCE if progress is None else 0.0
  start = time.monotonic()
  for place, item in enumerate(items):
    if wanted and time.monotonic() - start >= patience:
      yield from _shown(items, place)
      return
    yield item


def _shown(items: Sequence[Item], place: int) -> Iterator[Item]:
  import rich.console
  import rich.progress

  console = rich.console.Console(stderr=True)
  with rich.progress.Progress(console=console) as bar:
    task = bar.add_task("initializing", total=len(items), completed=place)
    for item in items[place:]:
      yield item
      bar.advance(task)
