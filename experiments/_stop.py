"""A run that is asked to stop."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

STATUS = 128 + signal.SIGTERM
"""of a process that SIGTERM has ended, as shells have it"""

CTRL_C = 128 + signal.SIGINT


class Stopped(BaseException):
  """SIGTERM, or a notice that the machine will be taken away.

  No `Exception`, so that no experiment takes it for a failure of its own.
  """


def _stop(number: int, frame: FrameType | None) -> None:
  del number, frame
  raise Stopped


@contextlib.contextmanager
def on_sigterm() -> Iterator[None]:
  """SIGTERM raises `Stopped` as soon as JAX gives control back to Python.

  The item at hand is lost, and computed anew by the next run; one whose saving
  was interrupted counts as not done. Not for several processes: there JAX
  listens to SIGTERM, and tells all of them.
  """
  before: Any = signal.signal(signal.SIGTERM, _stop)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
