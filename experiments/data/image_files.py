"""MNIST and CIFAR-10 from the files in which they are published.

Read as they are, or unpacked, never downloaded; a file that is not what it
should be is named, with what was expected and what is there. It may come from
anyone: nothing in it is run, and no more of it is unpacked than there can be.
"""

import gzip
import math
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from experiments.runtime import pickles

Arrays = tuple[np.ndarray, np.ndarray]
"""finite images [samples, height, width, channels], integer labels [samples]"""


class Images(NamedTuple):
  """As published: what is learnt from, and what is tested on."""

  train: Arrays
  test: Arrays


class Layout(NamedTuple):
  """One of the forms in which a data set is published."""

  train: tuple[str, ...]
  test: tuple[str, ...]
  read: Callable[[list[tuple[str, bytes]]], Arrays]
  """(name, content) of the files of a part -> its arrays"""
  size: Callable[[bytes], int]
  """the first bytes of a file -> how many it has at most, unpacked"""


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_CIFAR = (32, 32, 3)
_MNIST = (28, 28, 1)
_MOST = 2**28
"""numbers in a file or array; the largest that is published has 1.5e8"""
_HEADER = 4 + 4 * 3
"""bytes of the longest header of an IDX file: three axes"""


def load_images(dataset: str, data_dir: str) -> Images:
  """Finds "mnist" or "cifar10" in a directory, local or gs://, and reads it.

  Raises:
    ValueError: if there is no such directory, it lacks a file (it lists what
      was looked for), or a file is not what it should be.
  """
  root = epath.Path(data_dir or ".")
  if not data_dir or not root.is_dir():
    raise ValueError(
      f"{dataset} needs --data_dir, a directory with its files; got "
      f"{data_dir!r}. {_wanted(dataset)}"
    )
  for name in _ARCHIVES[dataset]:
    if (root / name).is_file():
      return _from_npz(root / name, _SHAPES[dataset])
  for layout in _LAYOUTS[dataset]:
    parts = [_find(root, names) for names in (layout.train, layout.test)]
    if all(parts):
      return Images(*(_read(layout, part) for part in parts))
  raise ValueError(f"no {dataset} in {data_dir!r}. {_wanted(dataset)}")


def _wanted(dataset: str) -> str:
  forms = [" ".join((*x.train, *x.test)) for x in _LAYOUTS[dataset]]
  return f"Wanted {' or '.join(_ARCHIVES[dataset])}, or all of: " + (
    "; or all of: ".join(forms) + " (each may end in .gz)."
  )


def _find(root: epath.Path, names: tuple[str, ...]) -> list[epath.Path]:
  """All of the files, or none; .gz ones and those in a known folder too."""
  found = []
  for name in names:
    choices = [
      root / folder / (name + end) for folder in _FOLDERS for end in ("", ".gz")
    ]
    found += [path for path in choices if path.is_file()][:1]
  return found if len(found) == len(names) else []


_FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")


def _read(layout: Layout, paths: list[epath.Path]) -> Arrays:
  return layout.read([(str(x), _content(x, layout.size)) for x in paths])


def _content(path: epath.Path, size: Callable[[bytes], int]) -> bytes:
  """All bytes of a file, unpacked."""
  with path.open("rb") as file:
    is_packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream = gzip.GzipFile(fileobj=file) if is_packed else file
    try:
      start = stream.read(_HEADER)
      most = min(size(start), _MOST)
      content = start + stream.read(max(0, most + 1 - len(start)))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      raise ValueError(
        f"{path} is a damaged or truncated gzip file of {path.stat().length} "
        f"bytes: {error}."
      ) from None
  if len(content) > _MOST:
    raise ValueError(
      f"{path} is too long: expected at most {_MOST} bytes, got more."
    )
  return content


def read_idx(name: str, content: bytes) -> np.ndarray:
  """An array of unsigned bytes in IDX format, of up to three axes.

  Raises:
    ValueError: if it is something else, or has not as many bytes as it says.
  """
  shape = _idx_shape(content)
  if not shape:
    raise ValueError(
      f"{name} is no IDX file of bytes: it must begin with 00 00 08 and the "
      f"number of axes, up to 3; got {content[:4].hex(' ') or 'nothing'}."
    )
  start = 4 + 4 * len(shape)
  _check_size(name, len(content), start + math.prod(shape))
  array = np.frombuffer(content, np.uint8, offset=start)
  return array.reshape(shape) if array.size else array


def _idx_shape(content: bytes) -> list[int]:
  """What the header of an IDX file of bytes says; [] if it is none."""
  rank = content[3] if len(content) > 3 else 0
  is_header = content[:3] == b"\0\0\x08" and rank in (1, 2, 3)
  if not is_header or len(content) < 4 + 4 * rank:
    return []
  return [int(size) for size in np.frombuffer(content, ">u4", rank, 4)]


def _idx_size(start: bytes) -> int:
  """Of an IDX file that begins so; no more is read of what is none."""
  shape = _idx_shape(start)
  return 4 + 4 * len(shape) + math.prod(shape) if shape else 0


def _check_size(name: str, actual: int, expected: int) -> None:
  if actual != expected:
    kind, came = "truncated", str(actual)
    if actual > expected:  # by how much is not known: no more was read
      kind, came = "too long", "more"
    raise ValueError(
      f"{name} is {kind}: expected {expected} bytes, got {came}."
    )


def _mnist(files: list[tuple[str, bytes]]) -> Arrays:
  images, labels = (read_idx(*file) for file in files)
  return _checked(
    " with ".join(name for name, _ in files), images, labels, _MNIST
  )


def _cifar_binary(files: list[tuple[str, bytes]]) -> Arrays:
  """Records of a label and 3·32·32 bytes, channels first."""
  batches, size = [], 1 + math.prod(_CIFAR)
  for name, content in files:
    records = max(1, -(-len(content) // size))
    _check_size(name, len(content), records * size)
    rows = np.frombuffer(content, np.uint8).reshape(records, size)
    images = _channels_last(rows[:, 1:])
    batches.append(_checked(name, images, rows[:, 0], _CIFAR))
  return _joined([name for name, _ in files], batches)


def _cifar_python(files: list[tuple[str, bytes]]) -> Arrays:
  return _joined([name for name, _ in files], [_unpickled(*x) for x in files])


def _unpickled(name: str, content: bytes) -> Arrays:
  """One {b"data": [samples, 3·32·32], b"labels": list}."""
  try:
    batch = pickles.load_arrays(content)
    rows, labels = batch[b"data"].__array__(), batch[b"labels"]
  except Exception as error:  # whatever damaged bytes may lead to
    raise ValueError(
      f"{name} is no whole python batch of CIFAR-10 ({len(content)} bytes): "
      f"{_told(error)}."
    ) from None
  if rows.ndim != 2 or rows.shape[1] != math.prod(_CIFAR):
    raise ValueError(f"{name}: wanted data [samples, 3072]; got {rows.shape}.")
  return _checked(name, _channels_last(rows), _flat(name, labels), _CIFAR)


def _flat(name: str, labels: Any) -> np.ndarray:
  """Labels as an array; lists in lists could be of any size."""
  if not hasattr(labels, "__array__"):
    entries = labels if isinstance(labels, list) else [labels]
    if others := {type(entry).__name__ for entry in entries} - {"int", "float"}:
      raise ValueError(
        f"{name}: wanted labels that are integers; got {sorted(others)}."
      )
  return np.asarray(labels)


def _told(error: Exception) -> str:
  """An exception of a library in one line that is not too long."""
  return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _joined(names: list[str], batches: list[Arrays]) -> Arrays:
  """All batches as one; they are published equally long."""
  counts = [len(labels) for _, labels in batches]
  usual = max(counts, key=lambda count: (counts.count(count), count))
  for name, count in zip(names, counts, strict=True):
    if count != usual:
      raise ValueError(
        f"{name}: wanted {usual} records, as other batches hold; got {count} "
        f"(all batches: {', '.join(map(str, counts))})."
      )
  images, labels = zip(*batches, strict=True)
  return np.concatenate(images), np.concatenate(labels)


def _channels_last(rows: np.ndarray) -> np.ndarray:
  return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _from_npz(path: epath.Path, shape: tuple[int, ...]) -> Images:
  """x_train, y_train, x_test, y_test, as Keras names them."""
  names = ("x_train", "y_train", "x_test", "y_test")
  try:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
      found = [_from_zip(archive, name) for name in names]
  except Exception as error:  # whatever damaged bytes may lead to
    raise ValueError(
      f"{path} ({path.stat().length} bytes) cannot be read as an .npz file "
      f"with {names}: {_told(error)}."
    ) from None
  return Images(
    _checked(f"{path}, x_train and y_train", found[0], found[1], shape),
    _checked(f"{path}, x_test and y_test", found[2], found[3], shape),
  )


def _from_zip(archive: zipfile.ZipFile, name: str) -> np.ndarray:
  """One array; zipfile gives no more bytes than its directory says."""
  entry = archive.getinfo(f"{name}.npy")
  if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError(f"{name} is packed as NumPy packs nothing")
  if entry.file_size > 8 * _MOST:
    raise ValueError(
      f"{name} has {entry.file_size} bytes; wanted at most {_MOST} numbers of "
      "8 bytes"
    )
  with archive.open(entry) as member:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_2_0
    if version == (1, 0):
      read = np.lib.format.read_array_header_1_0
    shape, is_fortran, dtype = read(member)
    if math.prod(shape) * dtype.itemsize > entry.file_size:
      raise ValueError(f"{name} has not the bytes of {dtype}{list(shape)}")
    array = np.frombuffer(member.read(), dtype)
  return array.reshape(shape, order="F" if is_fortran else "C")


def _checked(
  name: str, images: np.ndarray, labels: np.ndarray, shape: tuple[int, ...]
) -> Arrays:
  """Images as [samples, height, width, channels], labels as [samples]."""
  fits = images.shape[1:] in (shape, shape[:2] if shape[2] == 1 else shape)
  samples = len(images) if fits else 0
  if not samples or labels.shape not in ((samples,), (samples, 1)):
    raise ValueError(
      f"{name}: wanted images [samples, {', '.join(map(str, shape))}] and as "
      f"many labels; got {images.shape} and {labels.shape}."
    )
  _check_images(name, images)
  _check_labels(name, labels)
  return images.reshape(-1, *shape), labels.reshape(-1)


def _check_images(name: str, images: np.ndarray) -> None:
  kind = images.dtype.kind
  if kind not in "uif":
    raise ValueError(
      f"{name}: wanted images of integers or real floats; got {images.dtype}."
    )
  most = np.finfo(np.float32).max  # what is larger is infinite there
  if kind == "f" and not (finite := abs(images) <= most).all():
    raise ValueError(
      f"{name}: wanted finite images; got {images[~finite][0]} in "
      f"{np.sum(~finite)} of {images.size} numbers."
    )


def _check_labels(name: str, labels: np.ndarray) -> None:
  if labels.dtype.kind not in "ui":
    raise ValueError(
      f"{name}: wanted labels that are integers; got {labels.dtype}."
    )
  if labels.min() < 0 or labels.max() > 9:
    raise ValueError(
      f"{name}: labels must be 0 to 9; got {labels.min()} to {labels.max()}."
    )


_SHAPES = {"mnist": _MNIST, "cifar10": _CIFAR}
_ARCHIVES = {"mnist": ("mnist.npz",), "cifar10": ("cifar10.npz",)}
_LAYOUTS = {
  "mnist": tuple(
    Layout(
      (f"train-images{dot}idx3-ubyte", f"train-labels{dot}idx1-ubyte"),
      (f"t10k-images{dot}idx3-ubyte", f"t10k-labels{dot}idx1-ubyte"),
      _mnist,
      _idx_size,
    )
    for dot in ("-", ".")
  ),
  "cifar10": (
    Layout(
      tuple(f"{name}.bin" for name in _BATCHES),
      ("test_batch.bin",),
      _cifar_binary,
      lambda start: _MOST,
    ),
    Layout(_BATCHES, ("test_batch",), _cifar_python, lambda start: _MOST),
  ),
}
