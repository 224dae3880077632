"""The parts into which the features of an operation's output are cut."""

from initjax.graph._dataflow import Dataflow
from initjax.graph._place import Site
from initjax.graph._primitives import AFFINE
from initjax.graph._values import Node

_SAME = AFFINE | {"convert_element_type", "copy", "neg"}


def output_parts(flow: Dataflow, site: Site) -> list[int] | None:
  """Sizes of the parts of the last axis, in order; None if it is not cut.

  As of the output of a fused kernel, queries, keys and values side by side.
  """
  node = flow.sites.get(site)
  while node is not None:
    readers = flow.readers[node]
    cuts = [_cut(reader) for reader in readers]
    known = [cut for cut in cuts if cut is not None]
    if len(known) > 1 and len(known) == len(cuts):
      return _sizes(known, _length(node, readers[0]))
    node = readers[0] if len(readers) == 1 else None
    if node is None or node.label not in _SAME or len(node.below) != 1:
      return None
  return None


def _length(node: Node, reader: Node) -> int:
  place = [value.node for value in reader.operands].index(node)
  return int(reader.equation.invars[place].aval.shape[-1])


def _cut(node: Node) -> tuple[int, int] | None:
  """Start and end along the last axis, where that alone is cut."""
  if node.equation is None or node.label not in ("slice", "split"):
    return None
  params, shape = node.equation.params, node.equation.invars[0].aval.shape
  if node.label == "split":
    sizes = params["sizes"]
    start = sum(sizes[: node.output])
    last = params["axis"] == len(shape) - 1
    return (start, start + sizes[node.output]) if last else None
  starts, ends = params["start_indices"], params["limit_indices"]
  others = zip(starts[:-1], ends[:-1], shape[:-1], strict=True)
  whole = all((start, end) == (0, size) for start, end, size in others)
  strides = params["strides"] or (1,) * len(shape)
  return (starts[-1], ends[-1]) if whole and set(strides) == {1} else None


def _sizes(cuts: list[tuple[int, int]], length: int) -> list[int] | None:
  """Of parts that lie side by side and are all there is."""
  ordered = sorted(set(cuts))
  edges = [0, *(end for _, end in ordered)]
  starts = [start for start, _ in ordered]
  if starts != edges[:-1] or edges[-1] != length:
    return None
  return [end - start for start, end in ordered]
