"""What a results file is about: the model, versions, and the date."""

import datetime
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version

_LIBRARIES = ("initjax", "jax", "flax", "equinox", "haiku")
_DISTRIBUTIONS = {"haiku": "dm-haiku"}


def versions() -> dict[str, str]:
  """Versions of initjax and JAX, and of what else was imported.

  >>> list(versions())[:2]
  ['initjax', 'jax']
  """
  loaded = [name for name in _LIBRARIES if name in sys.modules]
  found = {name: version(_DISTRIBUTIONS.get(name, name)) for name in loaded}
  return found | {"Python": platform.python_version()}


def about(given: Iterable[tuple[str, str]]) -> dict[str, str]:
  """What is known of a result, with versions and today's date (UTC).

  >>> list(about([("model", "mlp")]))
  ['model', 'versions', 'date']
  """
  today = datetime.datetime.now(datetime.UTC).date().isoformat()
  made = ", ".join(" ".join(pair) for pair in versions().items())
  return dict(given) | {"versions": made, "date": today}
