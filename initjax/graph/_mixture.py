"""Records of how the entries of several positions become one."""

from typing import NamedTuple

from initjax.typing import Activation


class Window(NamedTuple):
  """Of a pool, along one axis."""

  entries: int
  outputs: int
  size: int
  stride: int
  padding: int
  """before the first entry"""
  step: int
  """between entries of a window"""


class Mixing(NamedTuple):
  """How entries at several positions become one."""

  counts: tuple[float, ...]
  """of how many: pooled, or seen by each position that attends to others"""
  share: float
  """outputs for each entry that is mixed"""
  overlap: float = 0.0
  """of two outputs' uniform weights: the mean of their scalar product; pooled:
  whether all positions are"""
  columns: float = 0.0
  """mean square of what an entry gets of uniform weights, all together"""
  features: int = 0
  """terms of a score"""
  values: int = 0
  """features of a value"""
  windows: tuple[Window, ...] = ()
  """of a pool, along the axes that it has a window for"""
  scores: Activation | None = None
  """what is made of a product of queries and keys before its softmax"""
