"""Parameters that multiply what a loop carries, entry by entry.

From one repeat to the next h ← a·h + …, where a is a parameter or, as exp(Δ·A)
in Mamba, computed of one: after n repeats its power aⁿ is what counts. No size
of one repeat tells that, so these are not followed. Gates that no parameter
multiplies are signals.
"""

from collections.abc import Iterator, Sequence

from initjax.graph._graph import Place
from initjax.graph._primitives import ELEMENTWISE, JOINS, LAYOUT
from initjax.graph._reader import Reader
from initjax.graph._values import Node, Value

_THROUGH = ELEMENTWISE | LAYOUT | JOINS
_DECAYS = LAYOUT | {"exp", "exp2", "integer_pow", "neg", "pow"}
_TERMS = frozenset(("add", "add_any", "sub"))


def note_recurrences(
  reader: Reader,
  carried: Sequence[Value],
  outputs: Sequence[Value],
  place: Place,
  name: str,
) -> None:
  """Notes parameters that multiply the carry of a loop.

  Args:
    reader: notes them.
    carried: what a repeat is given.
    outputs: what it hands on.
    place: of the loop; what it slices is another one in each repeat.
    name: of its primitive.
  """
  for before, after in zip(carried, outputs, strict=False):
    if before.node is not None and after.node is not None:
      for factor in _factors(reader, before.node, after.node):
        for value in _parameters(reader, factor):
          scans = () if value.view is None else value.view.scans
          if all(scan.site != place.site for scan in scans):
            _note(reader, value.paths, name)


def _note(reader: Reader, paths: Sequence[str], name: str) -> None:
  for path in paths:
    reader.met.not_followed.setdefault(path, name)


def _factors(reader: Reader, start: Node, end: Node) -> Iterator[Value]:
  """What multiplies a node on the way to one that is computed of it."""
  between, open_nodes = {end}, [end]
  while open_nodes:
    node = open_nodes.pop()
    if node is start or not _passes(reader, node):
      continue
    fresh = {n for n in node.below if n.index >= start.index} - between
    between |= fresh
    open_nodes += fresh
  leads = {start}
  for node in sorted(between - {start}, key=lambda node: node.index):
    if not _passes(reader, node) or leads.isdisjoint(node.below):
      continue
    leads.add(node)
    if node.label in ("mul", "div"):
      yield from (value for value in node.operands if value.node not in leads)


def _passes(reader: Reader, node: Node) -> bool:
  """Whether it goes on entry by entry, without a normalization."""
  plain = node.operation is None and node.label in _THROUGH
  return plain and reader.streams.normalization(node) is None


def _parameters(reader: Reader, factor: Value) -> Iterator[Value]:
  """Those that a factor is a product of, or a power."""
  open_values = [(factor, False)]
  while open_values:
    value, is_power = open_values.pop()
    node = value.node
    if node is None:
      if value.view is not None:
        yield value
    elif node.operation is not None:
      yield from _of_outer_product(reader, node)
    elif node.label in _DECAYS | {"mul", "div"} | _TERMS:
      is_power = is_power or node.label in ("exp", "exp2")
      open_values += [
        (each, is_power)
        for each in node.operands
        if each.node is not None or node.label not in _TERMS or is_power
      ]


def _of_outer_product(reader: Reader, node: Node) -> Iterator[Value]:
  """Where nothing is summed, an operation is a product entry by entry."""
  op = node.place and reader.sites.get(node.place.site)
  if op and op.kind == "dot" and not op.axes.summed and op.view is not None:
    del reader.sites[op.place.site]
    yield Value("parameter", op.view)
