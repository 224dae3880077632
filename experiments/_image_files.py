"""MNIST and CIFAR-10 from the files in which they are published.

Read as they are, or unpacked, never downloaded; a file that is not what it
should be is named, with what was expected and what is there.
"""

import gzip
import io
import math
import pickle
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

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


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_CIFAR = (32, 32, 3)
_MNIST = (28, 28, 1)


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
    if (root / name).exists():
      return _from_npz(root / name, _SHAPES[dataset])
  for layout in _LAYOUTS[dataset]:
    parts = [_find(root, names) for names in (layout.train, layout.test)]
    if all(parts):
      return Images(*(layout.read(_contents(part)) for part in parts))
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


def _contents(paths: list[epath.Path]) -> list[tuple[str, bytes]]:
  return [(str(path), _content(path)) for path in paths]


def _content(path: epath.Path) -> bytes:
  content = path.read_bytes()
  if content[:2] != b"\x1f\x8b":
    return content
  try:
    return gzip.decompress(content)
  except (EOFError, OSError, zlib.error) as error:
    raise ValueError(
      f"{path} is a damaged or truncated gzip file of {len(content)} bytes: "
      f"{error}."
    ) from None


def read_idx(name: str, content: bytes) -> np.ndarray:
  """An array of unsigned bytes in IDX format.

  Raises:
    ValueError: if it is something else, or has not as many bytes as it says.
  """
  rank = content[3] if len(content) > 3 else 0
  if len(content) < 4 + 4 * rank or content[:3] != b"\0\0\x08" or not rank:
    raise ValueError(
      f"{name} is no IDX file of bytes: it must begin with 00 00 08 and the "
      f"number of axes; got {content[:4].hex(' ') or 'nothing'}."
    )
  shape = np.frombuffer(content, ">u4", rank, 4).tolist()
  start = 4 + 4 * rank
  _check_size(name, len(content), start + math.prod(shape))
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _check_size(name: str, actual: int, expected: int) -> None:
  if actual != expected:
    kind = "truncated" if actual < expected else "too long"
    raise ValueError(
      f"{name} is {kind}: expected {expected} bytes, got {actual}."
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
    batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    rows, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
  except Exception as error:  # whatever damaged bytes may lead to
    raise ValueError(
      f"{name} is no whole python batch of CIFAR-10 ({len(content)} bytes): "
      f"{type(error).__name__}: {error}."
    ) from None
  if rows.ndim != 2 or rows.shape[1] != math.prod(_CIFAR):
    raise ValueError(f"{name}: wanted data [samples, 3072]; got {rows.shape}.")
  return _checked(name, _channels_last(rows), labels, _CIFAR)


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


class _ArraysOnly(pickle.Unpickler):
  """Builds arrays, bytes and containers, and calls nothing else."""

  def find_class(self, module: str, name: str) -> Any:
    if (module.partition(".")[0], name) in {
      ("numpy", "_reconstruct"),
      ("numpy", "_frombuffer"),
      ("numpy", "ndarray"),
      ("numpy", "dtype"),
      ("_codecs", "encode"),
    }:  # fmt: skip
      module = module.replace("numpy.core", "numpy._core")
      return super().find_class(module, name)
    raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _channels_last(rows: np.ndarray) -> np.ndarray:
  return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _from_npz(path: epath.Path, shape: tuple[int, ...]) -> Images:
  """x_train, y_train, x_test, y_test, as Keras names them."""
  names = ("x_train", "y_train", "x_test", "y_test")
  content = path.read_bytes()
  try:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
      found = [file[name] for name in names]
  except Exception as error:  # whatever damaged bytes may lead to
    raise ValueError(
      f"{path} ({len(content)} bytes) is no whole .npz file with {names}: "
      f"{type(error).__name__}: {error}."
    ) from None
  return Images(
    _checked(f"{path}, x_train and y_train", found[0], found[1], shape),
    _checked(f"{path}, x_test and y_test", found[2], found[3], shape),
  )


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
  if kind == "f" and not (finite := np.isfinite(images)).all():
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
    )
    for dot in ("-", ".")
  ),
  "cifar10": (
    Layout(
      tuple(f"{name}.bin" for name in _BATCHES),
      ("test_batch.bin",),
      _cifar_binary,
    ),
    Layout(_BATCHES, ("test_batch",), _cifar_python),
  ),
}
