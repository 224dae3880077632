"""Done items of a run, kept by Orbax until its results are written.

An unfinished run has a directory named by all that its results depend on: its
config, the programs, JAX. Only the very same run finds the items again; another
one gets a directory of its own.
"""

import base64
import contextlib
import fcntl
import hashlib
import io
import itertools
import json
import os
import pathlib
import pickle
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app
from etils import epath

import initjax


class Kept(NamedTuple):
  """Where items are kept, and what the next one is called."""

  directory: epath.Path
  manager: Any
  """an `orbax.checkpoint.CheckpointManager`; its steps are items"""
  numbers: Iterator[int]
  """0, 1, 2, ...: items of a run come in the same order every time"""


class MissingError(Exception):
  """There is no such item that can be used; it must be computed."""


def identity(name: str, *what: Any) -> str:
  """A directory name for a run: its name and a hash of what it depends on.

  >>> identity("vanishing", {"depth": 3}) == identity("vanishing", {"depth": 4})
  False
  """
  digest = hashlib.sha256()
  facts = (what, jax.__version__, np.__version__, jax.default_backend())
  digest.update(json.dumps(facts, default=str).encode())
  here = pathlib.Path(__file__).parent
  for root in (here, pathlib.Path(initjax.__file__).parent):
    for path in sorted(root.rglob("*.py")):
      digest.update(path.read_bytes())
  return f"{name}-{digest.hexdigest()[:12]}"


def open_items(directory: epath.PathLike, part: str = "items") -> Kept:
  """Opens what is kept in directory/part, or begins it."""
  import orbax.checkpoint as ocp

  path = epath.Path(directory) / part
  options = ocp.CheckpointManagerOptions(
    step_prefix="item",
    cleanup_tmp_directories=True,  # halves, of a run that was killed
    enable_async_checkpointing=False,  # what is saved is saved
  )
  manager = ocp.CheckpointManager(path, options=options)
  return Kept(epath.Path(directory), manager, itertools.count())


@contextlib.contextmanager
def opened(directory: epath.PathLike) -> Iterator[Kept]:
  """Opens it for one run at a time, and says how much is there.

  Raises:
    app.UsageError: if the same run is going on in another process.
  """
  path = epath.Path(directory)
  first = jax.process_index() == 0
  if first:
    path.mkdir(parents=True, exist_ok=True)
  with _locked(path) if first else contextlib.nullcontext():
    kept = open_items(path)
    if first and (done := len(list(path.glob("*/item_*")))):
      print(f"goes on after {done} items kept in {path}", file=sys.stderr)
    yield kept
    kept.manager.close()


@contextlib.contextmanager
def _locked(directory: epath.Path) -> Iterator[None]:
  """Held by the system until the process ends, however it ends."""
  if "://" in os.fspath(directory):  # buckets have no locks
    yield
    return
  with open(directory / ".lock", "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise app.UsageError(
        f"the same run is going on already, with its items in {directory}; "
        "give this one another --checkpoint_dir."
      ) from None
    yield


def remove(directory: epath.PathLike) -> None:
  """For a run whose results are written."""
  path = epath.Path(directory)
  path.rmtree()
  if not any(path.parent.iterdir()):  # others may be kept beside it
    path.parent.rmdir()


def load(kept: Kept, number: int, label: str) -> Any:
  """The item of that number, if it is there and sound.

  Raises:
    MissingError: if it is not; one that is there but cannot be read is removed,
      and a line on stderr says so.
  """
  import orbax.checkpoint as ocp

  if number not in kept.manager.all_steps():
    raise MissingError
  args = ocp.args.Composite(
    leaves=ocp.args.StandardRestore(), about=ocp.args.JsonRestore()
  )
  tree, why = None, ""
  try:
    found = kept.manager.restore(number, args=args)
    tree = _rebuild(found.leaves, found.about, label)
  except Exception as error:  # whatever a damaged file may lead to
    why = f"{type(error).__name__}: {error}".splitlines()[0]
  if _agreed(not why):
    return tree
  print(
    f"item {number} ({label}) in {kept.directory} cannot be read and is "
    f"computed anew; all others are kept. {why[:200]}",
    file=sys.stderr,
  )
  _remove(kept, number)
  raise MissingError


def numbers(tree: Any, label: str) -> Any:
  """The same pytree of numpy arrays.

  Raises:
    TypeError: if something in it is no number.
  """
  tree = jax.tree.map(np.asarray, tree)
  for leaf in jax.tree.leaves(tree):
    if leaf.dtype.kind in "OUS":
      raise TypeError(
        f"item {label} must give arrays of numbers; got {leaf!r}."
      )
  return tree


def save(kept: Kept, number: int, label: str, tree: Any) -> None:
  """Keeps a pytree of numpy arrays; whole, or not at all."""
  import orbax.checkpoint as ocp

  leaves, structure = jax.tree.flatten(tree)
  skeleton = jax.tree.unflatten(structure, range(len(leaves)))
  about = {
    "item": label,
    "structure": base64.b64encode(pickle.dumps(skeleton)).decode(),
    "leaves": [[str(leaf.dtype), leaf.shape] for leaf in leaves],
  }
  # Orbax keeps no arrays without entries, nor trees without arrays.
  stored = {str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}
  args = ocp.args.Composite(
    leaves=ocp.args.StandardSave(stored | {"number": np.int64(number)}),
    about=ocp.args.JsonSave(about),
  )
  kept.manager.save(number, args=args, force=True)


def _rebuild(stored: Any, about: Any, label: str) -> Any:
  if about["item"] != label:
    raise ValueError(f"it holds item {about['item']}")
  leaves = []
  for i, (dtype, shape) in enumerate(about["leaves"]):
    leaf = stored.get(str(i), np.zeros(shape, jax.numpy.dtype(dtype)))
    if str(leaf.dtype) != dtype or leaf.shape != tuple(shape):
      raise ValueError(f"array {i} is {leaf.dtype}{list(leaf.shape)}")
    if leaf.size and str(i) not in stored:
      raise ValueError(f"array {i} is missing")
    leaves.append(leaf)
  skeleton = _Structures(base64.b64decode(about["structure"])).load()
  return jax.tree.map(lambda i: leaves[i], skeleton)


class _Structures(pickle.Unpickler):
  """Of containers and numbers alone: nothing is called but named tuples."""

  def __init__(self, content: bytes):
    super().__init__(io.BytesIO(content))

  def find_class(self, module: str, name: str) -> Any:
    found = super().find_class(module, name)
    if not (isinstance(found, type) and issubclass(found, tuple)):
      raise pickle.UnpicklingError(f"{module}.{name} is no named tuple")
    return found


def _agreed(fine: bool) -> bool:
  """Whether it is fine for every process."""
  if jax.process_count() == 1:
    return fine
  from jax.experimental import multihost_utils

  return bool(np.all(multihost_utils.process_allgather(np.array(fine))))


def _remove(kept: Kept, number: int) -> None:
  with contextlib.suppress(FileNotFoundError):
    kept.manager.delete(number)
