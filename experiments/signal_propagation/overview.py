"""The main experiment on one screen: a mark for each pair, and a conclusion."""

from collections.abc import Iterator, Sequence

import rich.table
import rich.text

from experiments.signal_propagation.records import Course, Record
from experiments.signal_propagation.theory import Conditions

_MARKS = {"stable": "=", "vanishes": "↓", "explodes": "↑", "zero": "0",
          "overflow": "∞"}  # fmt: skip
_COLORS = {"stable": "green", "vanishes": "blue", "explodes": "red"}
_LEGEND = (
  "Each cell: the signal's size, then the gradient's. = keeps its size, as a "
  "healthy ReLU network does; ↓ vanishes; ↑ explodes; 0 is exactly zero in "
  "float32; ∞ overflows. standard: PyTorch's default, variance 1/(3·fan_in). "
  "own gain: the variance that keeps this activation's signal. --full shows "
  "every number, beside theory."
)


def overview(
  records: Sequence[Record], conditions: Conditions
) -> rich.table.Table:
  """A row for each initializer, a column for each activation."""
  activations = list(dict.fromkeys(one.activation for one in records))
  table = rich.table.Table(
    title=f"Signal and gradient through {conditions.depth} layers of width "
    f"{conditions.width}",
    box=None,
    pad_edge=False,
  )
  table.add_column("initializer", no_wrap=True)
  for name in activations:
    table.add_column(name, justify="center", no_wrap=True)
  cells = {(one.initializer, one.activation): _cell(one) for one in records}
  for initializer in dict.fromkeys(one.initializer for one in records):
    row = (cells.get((initializer, name), "") for name in activations)
    table.add_row(initializer, *row)
  return table


def _cell(record: Record) -> rich.text.Text:
  words = [_word(record.forward), _word(record.backward)]
  parts = [(_MARKS[word], _COLORS.get(word, "magenta")) for word in words]
  return rich.text.Text.assemble(parts[0], " ", parts[1])


def _word(course: Course) -> str:
  return course.verdict.split()[0]


def conclusion(
  records: Sequence[Record], conditions: Conditions
) -> rich.table.Table:
  """How to read the marks, and what happened in at most five lines."""
  table = rich.table.Table.grid()
  table.add_row(_LEGEND)
  table.add_row()
  by_pair = {(one.activation, one.initializer): one for one in records}
  for number, line in enumerate(_lines(by_pair, conditions.depth), 1):
    table.add_row(f"{number}. {line}")
  return table


def _lines(records: dict[tuple[str, str], Record], depth: int) -> Iterator[str]:
  """Those of pairs that were measured; each says its own numbers."""
  relu = [records.get(("relu", name)) for name in ("He fan_in", "Xavier norm.")]
  if relu[0] and relu[1]:
    yield (
      f"ReLU: He's variance 2/n keeps the signal ({_growth(relu[0].forward)}) "
      f"and the gradient ({_growth(relu[0].backward)}) through {depth} layers; "
      f"Xavier's halves both ({_growth(relu[1].forward)})."
    )
  small = [_word(records[x].forward) for x in records if x[1] == "normal 0.01"]
  if small:
    yield (
      "Weights of standard deviation 0.01 are too small: the signal vanishes, "
      f"to exactly 0 with {small.count('zero')} of {len(small)} activations."
    )
  sigmoid = [_word(records[x].backward) for x in records if x[0] == "sigmoid"]
  if sigmoid:
    lost = sigmoid.count("vanishes") + sigmoid.count("zero")
    yield (
      f"Sigmoid: the gradient vanishes with {lost} of {len(sigmoid)} "
      "initializers, since its slope is at most 1/4."
    )
  if own := records.get(("tanh", "own gain")):
    yield (
      f"Tanh at its own gain keeps the signal ({_growth(own.forward)}), but "
      f"the gradient grows ({_growth(own.backward)})."
    )
  yield (
    "signal_propagation.png, in the folder named below, shows every layer: "
    "signal above, gradient below, theory dashed."
  )


def _growth(course: Course) -> str:
  return f"×{course.growth:.3f} a layer"
