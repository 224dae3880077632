"""Pickles that anyone may have written, read without running anything.

A pickle is a program: it can import modules, call what it finds there, and
change it. Here it finds nothing but names that are known in advance, each with
what stands for it; nothing is imported for it.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

Known = Callable[[tuple[str, str]], Any]
"""(module, name) -> what stands for it, or None"""


def load(
  content: bytes, known: Known, *, states: bool = False, encoding: str = "ASCII"
) -> Any:
  """What was pickled: containers, numbers, texts, and what is known.

  Args:
    content: the pickle.
    known: what may be asked for, by its exact name.
    states: whether objects may be given a state; classes can be changed so,
      and what `known` gives must not mind.
    encoding: of texts that Python 2 has written.

  Raises:
    pickle.UnpicklingError: if it asks for another name, or for more memory
      than its size justifies. Damaged bytes can raise anything.
  """
  for step, argument, _ in pickletools.genops(content):
    if step.name == "BUILD" and not states:
      raise pickle.UnpicklingError("it changes the state of an object")
    if step.name.endswith("PUT") and (argument or 0) > len(content):
      raise pickle.UnpicklingError(f"it numbers an object {argument}")
  return _Reader(content, known, encoding).load()


class _Reader(pickle.Unpickler):
  def __init__(self, content: bytes, known: Known, encoding: str):
    super().__init__(io.BytesIO(content), encoding=encoding)
    self._known = known

  def find_class(self, module: str, name: str) -> Any:
    found = self._known((module, name))
    if found is None:
      asked = ascii(f"{module}.{name}"[:100])
      raise pickle.UnpicklingError(f"it asks for {asked}")
    return found


class _Type:
  """Stands for a `numpy.dtype` of numbers or texts."""

  def __init__(self, code: str | bytes, *_: Any):
    text = code.decode() if isinstance(code, bytes) else code
    if not re.fullmatch(r"[biufcSU]\d{1,6}", text):
      raise pickle.UnpicklingError(f"it holds an array of {text[:100]!r}")
    self.dtype = np.dtype(text)

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    order: Any = state[1]
    order = order.decode() if isinstance(order, bytes) else order
    self.dtype = self.dtype.newbyteorder(order)


class _Array:
  """Stands for a `numpy.ndarray`, whose bytes must be in the pickle."""

  def __init__(self, *_: Any):
    self._array = np.zeros(0, np.uint8)

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    _, shape, kind, is_fortran, content = state
    self._array = np.frombuffer(content, kind.dtype).reshape(
      shape, order="F" if is_fortran else "C"
    )

  @classmethod
  def from_buffer(
    cls, content: Any, kind: _Type, shape: Any, order: Any
  ) -> "_Array":
    """As NumPy writes it by protocol 5."""
    array = cls()
    array.__setstate__((1, shape, kind, order in ("F", b"F"), content))
    return array

  def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
    return np.array(self._array, dtype, copy=copy)


_ARRAYS: dict[tuple[str, str], Any] = {
  ("numpy", "ndarray"): _Array,
  ("numpy", "dtype"): _Type,
  ("numpy.core.multiarray", "_reconstruct"): _Array,
  ("numpy._core.multiarray", "_reconstruct"): _Array,
  ("numpy.core.numeric", "_frombuffer"): _Array.from_buffer,
  ("numpy._core.numeric", "_frombuffer"): _Array.from_buffer,
  ("_codecs", "encode"): str.encode,
}


def load_arrays(content: bytes) -> Any:
  """What was pickled, with arrays of numbers; texts of Python 2 as bytes.

  NumPy's own functions make none of the arrays: they believe whatever shape,
  type and flags a pickle tells them.

  >>> found = load_arrays(pickle.dumps({"data": np.arange(3)}))
  >>> np.asarray(found["data"])
  array([0, 1, 2])
  """
  return load(content, _ARRAYS.get, states=True, encoding="bytes")
