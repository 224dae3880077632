"""What the reader of a model returns: linear operations, in order."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from initjax._activations import known_name
from initjax._paths import short_path
from initjax.graph._geometry import Axes
from initjax.graph._mixture import Mixing
from initjax.graph._place import Place, Site
from initjax.graph._view import View
from initjax.typing import Activation


class Computed(NamedTuple):
  """What is computed of parameters entry by entry, as 1/√(variance + ε)."""

  label: str
  """a primitive's name, or "input" for an input, by its number"""
  operands: "tuple[Computed | str | float, ...]" = ()
  """numbers, paths of parameters, or computed likewise"""


UNKNOWN = Computed("constant")
"""A constant whose values are not known."""
Scale = str | Computed
"""A parameter, by its path, or what is computed of it."""


class Term(NamedTuple):
  """One term of a stream, times `factor` and the parameters `scales`."""

  kind: Literal[
    "output",
    "stream",
    "inner",
    "normalized",
    "product",
    "parts",
    "average",
    "maximum",
    "attention",
    "bias",
    "constant",
    "ones",
    "input",
    "unknown",
  ]
  """the output of an operation; the stream that feeds one, or what that stream
  normalizes; a normalized stream; a product of images, or one alone;
  images side by side; the mean or the maximum of an image over positions;
  values, queries and keys; a parameter that is added, or a constant array of
  unit size; the number 1; the entries of one-hot rows that are not 0; an input;
  what cannot be said, with all that has a say in it as `inner`"""
  site: Site = ()
  """of the operation: always the latest of its repeats; of an input, its own"""
  path: str = ""
  """of the bias; "" if it is no parameter"""
  inner: "Stream" = ()
  """what is normalized"""
  over: str = "units"
  """normalized over the "units" of each sample, or over "samples" """
  centred: bool = False
  """whether its mean is subtracted before it is normalized"""
  channels: int = 0
  """of those units, where positions are normalized with them"""
  counts: tuple[int, ...] = ()
  """of those samples, then of positions; () where that is not known"""
  images: "tuple[Image, ...]" = ()
  """of a product: independent, given what feeds their streams"""
  factor: float = 1.0
  scales: tuple[Scale, ...] = ()
  share: float = 1.0
  """of the entries that it names, how many it takes: more than all of them,
  where they are repeated"""
  mixing: Mixing | None = None
  """of positions"""


Stream = tuple[Term, ...]
"""A sum of independent terms."""


class Image(NamedTuple):
  """A function of a stream, entry by entry."""

  activation: Activation
  stream: Stream
  share: float = 1.0
  """of the stream's entries that it takes, likewise: ½ for the halves of a
  gated unit"""
  weight: float = 1.0
  """where images are side by side, its part of all entries"""


def terms_within(stream: Stream | None) -> Iterator[Term]:
  """Every term of a stream, and of the streams that its terms are made of."""
  for term in stream or ():
    yield term
    yield from terms_within(term.inner)
    for image in term.images:
      yield from terms_within(image.stream)


class Feed(NamedTuple):
  """What feeds an operation: activation(source)."""

  activation: Activation | None = None
  """a function of one scalar, None if there is none to be recovered"""
  reason: str = "input"
  """what the source is: "linear", "input", "normalization", "residual sum",
  "product of two branches", "softmax", or a primitive"""
  source: str | None = None
  """path of the operation whose output (plus bias) is that source"""
  place: Place | None = None
  """of the equation whose output is the source; None for an input"""
  output: int = 0
  """which of that equation's outputs"""
  stream: Stream | None = None
  """what that source is a sum of; None where it cannot be said"""
  reached: Stream | None = None
  """then, all that has a say in it; None where that cannot be said either"""
  share: float = 1.0
  """of the source's entries that it takes; > 1 where they are repeated"""

  @property
  def from_outside(self) -> bool:
    """Whether no operation comes before it."""
    return self.reason in ("input", "indices", "positions", "constant")


@dataclasses.dataclass(frozen=True, repr=False)
class LinearOp:
  """One use of a parameter in a linear operation."""

  paths: tuple[str, ...]
  """of the parameters, such as "params/Dense_0/kernel"; several where
  the kernel is made of several, none for a constant"""
  kind: Literal["dot", "convolution", "embedding", "ragged_dot", "data"]
  """the operation; "data" has no parameter at all (attention scores)"""
  shape: tuple[int, ...]
  """of the output, without the axes of surrounding loops"""
  dtype: Any
  """of the output"""
  fan_in: float
  """terms summed into one output element, away from borders"""
  fan_out: float
  """output elements that one input element feeds, likewise"""
  origin: Literal["parameter", "derived", "constant", "data"]
  """of the kernel: a leaf seen through a linear view; computed from leaves;
  a constant closed over by the function; or data"""
  axes: Axes
  """which axes of the operands are summed, and which are samples"""
  place: Place
  """where in the program it is"""
  feed: Feed
  """what feeds the operation; in a scan, what feeds the first repeat"""
  view: View | None = None
  """how the kernel is made of parameters; None for what is no parameter"""
  groups: int = 1
  strides: tuple[int, ...] = ()
  dilation: tuple[int, ...] = ()
  later_feed: Feed | None = None
  """in a scan, what feeds the repeats after the first"""
  kernel_shape: tuple[int, ...] = ()
  """of the operand that is the kernel, in one repeat"""
  valid_fans: tuple[float, float] | None = None
  """fan_in and fan_out without terms that are padding, if these are there"""
  taps: tuple[Any, ...] = dataclasses.field(default=(), compare=False)
  """of a convolution, for each axis [outputs, taps]: the entry met, or -1"""
  summed_over: tuple[tuple[str, int], ...] = ()
  """axes of a shard_map's mesh, and their sizes, over whose devices the output
  is summed: `fan_in` counts the terms of all"""

  def __repr__(self) -> str:
    """Short: path, kind, fans, repeats, and what feeds it."""
    name = f"{self.path or '(constant)'}: {self.kind}"
    times = "".join(f" × {length}" for length in self.repeats)
    fans = f"{self.fan_in:g}→{self.fan_out:g}"
    feed = self.usual_feed
    source = (feed.activation and known_name(feed.activation)) or feed.reason
    return f"LinearOp({name} {fans}{times}, fed by {source})"

  def feed_at(self, repeat: tuple[int, ...]) -> Feed:
    """What feeds one repeat."""
    if self.later_feed is None or self.place.is_first(repeat):
      return self.feed
    return self.later_feed

  @property
  def usual_feed(self) -> Feed:
    """What feeds most repeats."""
    return self.later_feed or self.feed

  @property
  def valid_fan_in(self) -> float:
    """fan_in without terms that are padding: the mean over all outputs."""
    return self.fan_in if self.valid_fans is None else self.valid_fans[0]

  @property
  def valid_fan_out(self) -> float:
    """fan_out likewise: the mean over all inputs, borders included."""
    return self.fan_out if self.valid_fans is None else self.valid_fans[1]

  @property
  def path(self) -> str:
    """The parameter's path; several are joined by ", "."""
    return ", ".join(self.paths)

  @property
  def multiplier(self) -> float:
    """Constant factor between the parameter and the kernel."""
    known = None if self.view is None else self.view.multiplier
    return 1.0 if known is None else known

  @property
  def leaf_shape(self) -> tuple[int, ...] | None:
    """Of the parameter, where there is one."""
    return None if self.view is None else self.view.leaf_shape

  @property
  def in_axes(self) -> tuple[int, ...] | None:
    """Axes of the parameter that are summed; None if not to be followed."""
    return self._leaf_axes(self.axes.summed, self.axes.free)

  @property
  def out_axes(self) -> tuple[int, ...] | None:
    """Axes of the parameter that become features of the output."""
    return self._leaf_axes(self.axes.free, self.axes.summed)

  def _leaf_axes(
    self, wanted: tuple[int, ...], others: tuple[int, ...]
  ) -> tuple[int, ...] | None:
    held = None if self.view is None else self.view.axes
    if held is None:
      return None
    found = {axis for place in wanted for axis in held[place]}
    shared = found & {axis for place in others for axis in held[place]}
    return None if shared else tuple(sorted(found))

  @property
  def is_shared(self) -> bool:
    """Whether repeats of a scan around it use one kernel."""
    own = () if self.view is None else self.view.scans
    return len(own) < len(self.place.scans)

  @property
  def repeats(self) -> tuple[int, ...]:
    """Lengths of the surrounding scans, outermost first."""
    return self.place.repeats

  @property
  def activation(self) -> Activation | None:
    """The function that feeds the (first) operation, if there is one."""
    return self.feed.activation

  @property
  def reason(self) -> str:
    """What that function is applied to, in words: see `Feed`."""
    return self.feed.reason

  @property
  def source(self) -> str | None:
    """Path of the operation whose output that is."""
    return self.feed.source


class Row(NamedTuple):
  """An operation at one repeat of the scans around it."""

  number: int
  """of the operation, in `graph.ops`"""
  op: LinearOp
  repeat: tuple[int, ...]
  """of each scan, outermost first"""

  @property
  def feed(self) -> Feed:
    """What feeds this repeat."""
    return self.op.feed_at(self.repeat)


def _turn(row: Row) -> tuple[Any, ...]:
  """Sorts rows by when they are run: scans by their repeats first."""
  scans = zip(row.op.place.scans, row.repeat, strict=True)
  turns = ((scan.site, -i if scan.reverse else i) for scan, i in scans)
  return (*itertools.chain(*turns), row.op.place.site)


@dataclasses.dataclass(frozen=True, repr=False)
class SignalGraph:
  """How a model uses its parameters, read from its jaxpr."""

  ops: tuple[LinearOp, ...]
  """every use of a parameter, in the order of execution; one that reaches no
  output of the function only where the parameter has no other"""
  products: tuple[LinearOp, ...]
  """products of two data operands, such as attention scores, in order"""
  elementwise: tuple[str, ...]
  """parameters that shift or multiply entries of a signal one by one: biases,
  scales of norms"""
  unused: tuple[str, ...]
  """parameters that meet no data and are no output themselves"""
  not_followed: dict[str, str] = dataclasses.field(hash=False)
  """parameters that meet data in a way that is not read, and the primitive in
  which they do: a product whose kernel data make of them, a loop of which they
  multiply the carry, or a sum or product that is no bias and no scale"""
  opaque: tuple[str, ...]
  """calls that hold linear operations and could not be entered, by name"""
  statistics: tuple[int, ...] = ()
  """leaves of the inputs that scale or shift all samples alike, by number: they
  are read as constants, and not as data"""
  output: Stream | None = None
  """what that output is a (function of a) sum of which holds the last
  operation's; None where it cannot be said"""

  @functools.cached_property
  def rows(self) -> tuple[Row, ...]:
    """Every repeat of every operation, in the order of execution.

    Operations that share a scan take turns; a reversed one counts down.
    """
    rows = (
      Row(number, op, repeat)
      for number, op in enumerate(self.ops)
      for repeat in itertools.product(*map(range, op.repeats))
    )
    return tuple(sorted(rows, key=_turn))

  @functools.cached_property
  def rows_by_path(self) -> dict[str, list[int]]:
    """Positions in `rows` of the operations with a path, in order."""
    found: dict[str, list[int]] = {}
    for index, row in enumerate(self.rows):
      found.setdefault(row.op.path, []).append(index)
    return found

  def __repr__(self) -> str:
    """Short: how much was found; `print` lists the operations."""
    counts = {
      "data products": self.products,
      "used elementwise": self.elementwise,
      "unused": self.unused,
      "not followed": self.not_followed,
    }
    rest = (f", {len(found)} {name}" for name, found in counts.items() if found)
    ops = f"{len(self.ops)} operation{'s' * (len(self.ops) != 1)}"
    return f"SignalGraph({ops}{''.join(rest)})"

  def __str__(self) -> str:
    """The operations in order, one a line, and what was not followed."""
    missed = (
      f"  not followed: {path} ({primitive})"
      for path, primitive in self.not_followed.items()
    )
    return "\n".join((repr(self), *(f"  {op!r}" for op in self.ops), *missed))

  def __iter__(self) -> Iterator[LinearOp]:
    return iter(self.ops)

  def __len__(self) -> int:
    return len(self.ops)

  def __getitem__(self, path: str) -> LinearOp:
    """The one operation that uses the parameter `path`, whole or else short.

    Raises:
      KeyError: if there is none, or more than one.
    """
    found = [op for op in self.ops if op.path == path]
    found = found or [op for op in self.ops if short_path(op.path) == path]
    if len(found) != 1:
      listed = ", ".join(sorted({op.path for op in self.ops}))
      raise KeyError(f"{path} has {len(found)} uses; the paths are {listed}.")
    return found[0]
