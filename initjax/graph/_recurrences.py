"""Parameters that multiply the carry of a loop, entry by entry.

Each repeat computes h ← a·h + …, where a is a parameter or, as exp(Δ·A) in
Mamba, computed from one: after n repeats its power aⁿ is what counts. The size
in a single repeat does not tell, so these are not followed. Gates that no
parameter multiplies are signals. The powers may be taken without a loop: in
pairs, by an associative scan, or as exp of a cumulative sum.
"""

from collections.abc import Iterator, Sequence

from initjax.graph._compat import Equation
from initjax.graph._moves import Index
from initjax.graph._place import Place
from initjax.graph._primitives import ELEMENTWISE, JOINS, LAYOUT, SCALES
from initjax.graph._reader import Reader
from initjax.graph._values import Node, Value

_THROUGH = ELEMENTWISE | LAYOUT | JOINS
_DECAYS = LAYOUT | {"exp", "exp2", "integer_pow", "neg", "pow"}
_DIFFERENCES = LAYOUT | SCALES | {"select_n", "sub"}
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
        for value in parameters_of(reader, factor):
          scans = () if value.view is None else value.view.scans
          if all(scan.site != place.site for scan in scans):
            _note(reader, value.paths, name)


def note_powers(
  reader: Reader, equation: Equation, operands: Sequence[Value]
) -> None:
  """Notes parameters whose powers are computed without a loop."""
  name, found = equation.primitive.name, None
  if name in ("mul", "dot_general"):
    found = _neighbours(*operands[:2])
  elif name == "cumprod":
    found = operands[0]
  elif name in ("exp", "exp2") and operands[0].node is not None:
    found = _cumulative(operands[0].node)
  for value in () if found is None else parameters_of(reader, found):
    _note(reader, value.paths, name)


def _neighbours(first: Value, second: Value) -> Value | None:
  """What an associative scan multiplies in pairs: [0:-1:2] and [1::2] of it."""
  one, other = _every_other(first), _every_other(second)
  if one is None or other is None or one[1] == other[1]:
    return None
  views = one[0].view, other[0].view
  alike = one[0] is other[0] or (views[0] is not None and views[0] == views[1])
  return one[0] if alike else None


def _every_other(value: Value) -> tuple[Value, Sequence[int]] | None:
  """What every other entry was taken of, and before which places."""
  made, view = value.node or value.made, value.view
  steps: Sequence[int]
  ends: Sequence[int]
  if view is not None and isinstance(view.move, Index):
    picks = [pick for pick in view.move.picks if not isinstance(pick, int)]
    below = Value("parameter", view.below[0])
    steps, ends = (
      [step for *_, step in picks],
      [end or 0 for _, end, _ in picks],
    )
  elif made is not None and made.label == "slice" and made.equation is not None:
    params, below = made.equation.params, made.operands[0]
    steps, ends = params["strides"] or (), params["limit_indices"]
  else:
    return None
  return (below, ends) if any(step > 1 for step in steps) else None


def _cumulative(node: Node) -> Value | None:
  """What was summed up along an axis, before it was moved or masked."""
  while (below := node.only_below(_DIFFERENCES) or _minuend(node)) is not None:
    node = below
  return node.operands[0] if node.label == "cumsum" else None


def _minuend(node: Node) -> Node | None:
  return node.below[0] if node.label == "sub" else None


def _note(reader: Reader, paths: Sequence[str], name: str) -> None:
  for path in paths:
    reader.met.not_followed.setdefault(path, name)


def _factors(reader: Reader, start: Node, end: Node) -> Iterator[Value]:
  """What multiplies a node on the way to one that is computed of it."""
  between, open_nodes = {end}, [end]
  while open_nodes:
    node = open_nodes.pop()
    if node is start or not passes(reader, node):
      continue
    fresh = {n for n in node.below if n.index >= start.index} - between
    between |= fresh
    open_nodes += fresh
  leads = {start}
  for node in sorted(between - {start}, key=lambda node: node.index):
    if not passes(reader, node) or leads.isdisjoint(node.below):
      continue
    leads.add(node)
    if node.label in ("mul", "div"):
      yield from (value for value in node.operands if value.node not in leads)


def passes(
  reader: Reader, node: Node, through: frozenset[str] = _THROUGH
) -> bool:
  """Whether it goes on entry by entry, without a normalization."""
  plain = node.operation is None and node.label in through
  return plain and reader.streams.normalization(node) is None


def parameters_of(reader: Reader, factor: Value) -> Iterator[Value]:
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
