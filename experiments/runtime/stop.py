"""A run that is asked to stop."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

STATUS = 128 + signal.SIGTERM
"""of a process that SIGTERM has ended, as shells have it"""

CTRL_C = 128 + signal.SIGINT


class Stopped(BaseException):
  """SIGTERM, or a notice that the machine will be taken away.

  No `Exception`, so that no experiment takes it for a failure of its own.
  """


_asked: list[int] = []


def _stop(number: int, frame: FrameType | None) -> None:
  del frame
  _asked.append(number)
  raise Stopped


def check() -> None:
  """Raises `Stopped` again, if what was running then had no ear for it.

  Python ignores exceptions in destructors, and libraries some in callbacks.
  """
  if _asked:
    raise Stopped


@contextlib.contextmanager
def on_sigterm() -> Iterator[None]:
  """SIGTERM raises `Stopped` as soon as JAX gives control back to Python.

  The item at hand is lost, and computed anew by the next run; one whose saving
  was interrupted counts as not done. Not for several processes: there JAX
  listens to SIGTERM, and tells all of them.
  """
  _asked.clear()
  before: Any = signal.signal(signal.SIGTERM, _stop)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


def leave(status: int) -> NoReturn:
  """Ends this process, without waiting for what its devices are doing.

  Python's own end would wait for it, or take the interpreter from threads that
  still need it, which ends with another status.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
