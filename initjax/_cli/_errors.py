"""Errors on one line, with the place in the user's own code."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

_LIBRARIES = {"equinox", "etils", "flax", "haiku", "initjax", "jax", "jaxlib"}


_FLAGS_OF_THE_MODEL = (
  " Pass keyword arguments of the model in --kwargs, such as --kwargs "
  "train=False."
)


class CallError(Exception):
  """What was asked for cannot be done; the message is one line."""


@contextlib.contextmanager
def on_one_line() -> Iterator[None]:
  """Turns errors of the user's code, and of wrong arguments, to `CallError`s.

  What comes from neither is a bug of this package and keeps its traceback.
  """
  try:
    yield
  except CallError:
    raise
  except (Exception, SystemExit) as error:
    place = _line_of_user(error)
    if not place and not isinstance(error, TypeError | ValueError | OSError):
      raise
    words = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, TypeError) and "missing" in words:
      words += _FLAGS_OF_THE_MODEL
    where = f" ({place})" if place else ""
    raise CallError(words[:500] + where) from error


def _line_of_user(error: BaseException) -> str:
  """file:line of the user's code where `error` arose; "" if nowhere there."""
  if isinstance(error, SyntaxError) and error.filename:
    return f"{_relative(error.filename)}:{error.lineno}"
  own, installed = "", ""
  for frame, line in traceback.walk_tb(error.__traceback__):
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    if package in _LIBRARIES or package in sys.stdlib_module_names:
      continue
    place = f"{_relative(frame.f_code.co_filename)}:{line}"
    if "site-packages" in place:
      installed = place
    else:
      own = place
  return own or installed


def _relative(path: str) -> str:
  """As seen from the current directory, if it is below."""
  here = os.getcwd() + os.sep
  return path.removeprefix(here)
