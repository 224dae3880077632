"""Done items of a run, kept by Orbax until its results are written.

An unfinished run has a directory named by all that its results depend on: see
`_run_identity`. Only the very same run finds the items again; another one gets
a directory of its own.
"""

import base64
import contextlib
import fcntl
import hashlib
import itertools
import json
import math
import os
import pickle
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app
from etils import epath

from experiments.runtime import pickles


class Kept(NamedTuple):
  """Where items are kept, and what the next one is called."""

  directory: epath.Path
  manager: Any
  """an `orbax.checkpoint.CheckpointManager`; its steps are items"""
  numbers: Iterator[int]
  """0, 1, 2, ...: items of a run come in the same order every time"""
  points: Iterator[int]
  """0, 1, 2, ...: where processes ask each other whether to stop; one sequence
  for all parts of a run, since each must be later than the one before"""
  closing: contextlib.ExitStack
  """what is to be closed at the end"""


_CHECKSUM = hashlib.sha256().digest_size


class MissingError(Exception):
  """There is no such item that can be used; it must be computed."""


def part_of(kept: Kept, name: str) -> Kept:
  """What is kept under another name in the same run."""
  manager = _manager(kept.directory / name, kept.closing)
  return kept._replace(manager=manager, numbers=itertools.count())


def _manager(directory: epath.Path, closing: contextlib.ExitStack) -> Any:
  import orbax.checkpoint as ocp

  options = ocp.CheckpointManagerOptions(
    step_prefix="item",
    enable_async_checkpointing=False,  # what is saved is saved
  )
  manager = ocp.CheckpointManager(directory, options=options)
  closing.callback(manager.close)
  return manager


@contextlib.contextmanager
def opened(directory: epath.PathLike) -> Iterator[Kept]:
  """Opens it for one run at a time, and says how much is there.

  Raises:
    app.UsageError: if the same run is going on in another process, or nothing
      can be written there.
  """
  path = epath.Path(directory)
  first = jax.process_index() == 0
  with contextlib.ExitStack() as closing:
    try:
      if first:
        path.mkdir(parents=True, exist_ok=True)
        closing.enter_context(_locked(path))
    except OSError as error:
      raise app.UsageError(f"no items can be kept in {path}: {error}") from None
    manager = _manager(path / "items", closing)
    found = [item for item in path.glob("*/item_*") if not item.suffix]
    if first and (done := len(found)):  # with a suffix they are halves
      print(f"goes on after {done} items kept in {path}", file=sys.stderr)
    yield Kept(path, manager, itertools.count(), itertools.count(), closing)


@contextlib.contextmanager
def _locked(directory: epath.Path) -> Iterator[None]:
  """Held by the system until the process ends, however it ends."""
  if _in_bucket(directory):  # where there are no locks
    yield
    return
  with open(directory / ".lock", "a") as file:  # never cut off, if it is a link
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise app.UsageError(
        f"the same run is going on already, with its items in {directory}; "
        "give this one another --checkpoint_dir."
      ) from None
    yield


def _in_bucket(directory: epath.Path) -> bool:
  return "://" in os.fspath(directory)


def remove(directory: epath.PathLike) -> None:
  """For a run whose results are written."""
  path = epath.Path(directory)
  path.rmtree()
  if _in_bucket(path):  # where no directory is empty
    return
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
  """Keeps a pytree of numpy arrays; whole, or not at all.

  Raises:
    app.UsageError: if it cannot be written.
  """
  import orbax.checkpoint as ocp

  leaves, structure = jax.tree.flatten(tree)
  skeleton = jax.tree.unflatten(structure, range(len(leaves)))
  about = {
    "item": label,
    "structure": base64.b64encode(pickle.dumps(skeleton)).decode(),
    "leaves": [[str(leaf.dtype), leaf.shape] for leaf in leaves],
  }
  # One array: Orbax keeps none without entries, and goes on reading others in
  # vain where one cannot be read. Its last bytes are a checksum.
  content = b"".join(leaf.tobytes() for leaf in leaves)
  content += _checksum(content, about)
  args = ocp.args.Composite(
    leaves=ocp.args.StandardSave({"bytes": np.frombuffer(content, np.uint8)}),
    about=ocp.args.JsonSave(about),
  )
  try:
    kept.manager.save(number, args=args, force=True)
  except Exception as error:  # whatever a full disk may lead to
    raise app.UsageError(
      f"item {number} ({label}) cannot be kept in {kept.directory}: "
      f"{str(error).splitlines()[0]}. Make room, and give the same command "
      "again: it goes on with those before."
    ) from None


def _checksum(content: bytes, about: Any) -> bytes:
  """Of the bytes and of what they mean."""
  meaning = json.dumps(about, sort_keys=True).encode()
  return hashlib.sha256(meaning + content).digest()


def _rebuild(stored: Any, about: Any, label: str) -> Any:
  if about["item"] != label:
    raise ValueError(f"it holds item {about['item']}")
  content, checksum = np.split(stored["bytes"], [-_CHECKSUM])
  if _checksum(content.tobytes(), about) != checksum.tobytes():
    raise ValueError(f"its {content.size} bytes are not those that were kept")
  leaves, start = [], 0
  for name, shape in about["leaves"]:
    dtype, size = jax.numpy.dtype(name), math.prod(shape)
    leaf = np.frombuffer(content, dtype, size, start) if size else np.zeros(0)
    leaves.append(leaf.astype(dtype).reshape(shape))
    start += leaf.nbytes
  skeleton = pickles.load(base64.b64decode(about["structure"]), _named_tuple)
  return jax.tree.map(lambda i: leaves[i], skeleton)


def _named_tuple(asked: tuple[str, str]) -> Any:
  """The class of that very name, in a module that is there already."""
  module, name = asked
  found = getattr(sys.modules.get(module), "__dict__", {}).get(name)
  if not (isinstance(found, type) and issubclass(found, tuple)):
    return None
  is_it = (found.__module__, found.__qualname__) == asked
  return found if is_it and hasattr(found, "_fields") else None


def _agreed(fine: bool) -> bool:
  """Whether it is fine for every process."""
  if jax.process_count() == 1:
    return fine
  from jax.experimental import multihost_utils

  return bool(np.all(multihost_utils.process_allgather(np.array(fine))))


def _remove(kept: Kept, number: int) -> None:
  with contextlib.suppress(FileNotFoundError):
    kept.manager.delete(number)
