"""Writes files completely or not at all, and never overwrites one."""

import io
import json
import math
import os
import uuid
from typing import Any

from etils import epath


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes `text` to a new file, as UTF-8.

  A reader never sees a partial file: it is written next to `path` and appears
  there when it is complete.

  Args:
    path: local, or in a bucket, such as gs://bucket/report.html.
    text: the whole content.

  Raises:
    FileExistsError: if something already exists at `path`; it is left as it is.
    FileNotFoundError: if the directory of `path` does not exist.

  >>> import tempfile
  >>> directory = epath.Path(tempfile.mkdtemp())
  >>> write_text(directory / "report.txt", "healthy")
  >>> (directory / "report.txt").read_text()
  'healthy'
  """
  _write(path, text.encode())


def write_json(path: epath.PathLike, content: Any) -> None:
  """Writes `content` to a new file as standard JSON.

  Arrays become lists, named tuples become objects, and numbers that JSON lacks
  become the strings "inf", "-inf" and "nan". Otherwise this is like
  `write_text`.

  Args:
    path: local, or in a bucket, such as gs://bucket/report.json.
    content: dicts, lists, tuples, arrays, numbers and strings.

  Raises:
    FileExistsError: if something already exists at `path`; it is left as it is.
    FileNotFoundError: if the directory of `path` does not exist.
    TypeError: if something in `content` has no JSON form.

  >>> import tempfile
  >>> path = epath.Path(tempfile.mkdtemp()) / "report.json"
  >>> write_json(path, {"log2_second_moment": -math.inf})
  >>> json.loads(path.read_text())
  {'log2_second_moment': '-inf'}
  """
  write_text(path, json.dumps(_json_form(content), indent=1, allow_nan=False))


def write_figure(path: epath.PathLike, figure: Any) -> None:
  """Writes a matplotlib figure to a new file.

  The ending of `path` selects the format; without one, it is PNG. Otherwise
  this is like `write_text`.

  Args:
    path: local, or in a bucket, such as gs://bucket/report.svg.
    figure: a `matplotlib.figure.Figure`.

  Raises:
    FileExistsError: if something already exists at `path`; it is left as it is.
    FileNotFoundError: if the directory of `path` does not exist.
    ValueError: if matplotlib does not know the ending.

  >>> import tempfile
  >>> from matplotlib.figure import Figure
  >>> path = epath.Path(tempfile.mkdtemp()) / "figure.svg"
  >>> write_figure(path, Figure())
  >>> path.read_text()[:5]
  '<?xml'
  """
  content = io.BytesIO()  # matplotlib writes to no bucket
  kind = epath.Path(path).suffix[1:] or "png"
  figure.savefig(content, format=kind, dpi=150)
  _write(path, content.getvalue())


def _write(path: epath.PathLike, content: bytes) -> None:
  """Beside the path first; if that fails, nothing is left behind."""
  target = epath.Path(path)
  check_directory(target)
  partial = target.parent / f".{uuid.uuid4().hex[:8]}-{target.name}"
  try:
    partial.write_bytes(content)
    try:  # a hard link, so that no other file slips in
      os.link(partial, target)
    except OSError:  # it exists, or the file system has no hard links
      check_free(target)
      partial.rename(target)
  finally:
    partial.unlink(missing_ok=True)


def check_directory(path: epath.PathLike) -> None:
  """Raises FileNotFoundError unless `path` has a directory to be in."""
  parent = epath.Path(path).parent
  in_bucket = "://" in os.fspath(parent)  # where directories need not exist
  if not in_bucket and not parent.is_dir():
    raise FileNotFoundError(
      f"cannot write {os.fspath(path)}: there is no directory "
      f"{os.fspath(parent)}; create it first, or choose another path."
    )


def check_free(path: epath.PathLike) -> None:
  """Raises FileExistsError if there is something at `path`."""
  if epath.Path(path).exists():
    raise FileExistsError(
      f"{os.fspath(path)} already exists, and reports never overwrite a file; "
      "choose another path, or remove the file first."
    )


def _json_form(value: Any) -> Any:
  if hasattr(value, "_asdict"):
    value = value._asdict()
  if isinstance(value, dict):
    return {key: _json_form(item) for key, item in value.items()}
  if hasattr(value, "tolist"):
    value = value.tolist()
  if isinstance(value, list | tuple):
    return [_json_form(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value
