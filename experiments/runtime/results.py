"""Where results go: a new directory for every run, whole files only."""

import datetime
import uuid

from etils import epath

from initjax.reports import write_figure, write_json, write_text

__all__ = [
  "check_parent",
  "new_directory",
  "write_figure",
  "write_json",
  "write_text",
]


def check_parent(parent: str, name: str = "output_dir") -> None:
  """Raises OSError unless files can be written in `parent`."""
  if not parent:
    raise OSError(f"{name} must not be empty; . is the current directory.")
  path = epath.Path(parent)
  try:
    path.exists()
  except ImportError as error:
    raise OSError(
      f"{name} {parent!r} needs another package ({error}); for gs:// "
      "pip install 'etils[epath-gcs]'."
    ) from error
  try:
    path.mkdir(parents=True, exist_ok=True)
    # A file, for buckets have no empty directories; processes on other hosts
    # may have the same number.
    probe = path / f".probe-{uuid.uuid4().hex}"
    probe.write_text("")
    probe.unlink()
  except OSError as error:
    raise OSError(
      f"{name} {parent!r} is no directory that can be written: {error}"
    ) from error


def new_directory(parent: str, name: str) -> epath.Path:
  """Creates parent/name-DATE-TIME; a directory that exists is never reused."""
  stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  root = epath.Path(parent)
  for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
    path = root / f"{name}-{stamp}{suffix}"
    if path.exists():  # to a bucket, making it again is no error
      continue
    try:
      path.mkdir(parents=True, exist_ok=False)
    except FileExistsError:
      continue
    return path
  raise FileExistsError(f"no free directory for {name}-{stamp} in {root}.")
