"""What reading a model returns: its linear operations, in order."""

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
    "noise",
    "unknown",
  ]
  """the output of an operation; the stream that feeds one, or what that stream
  normalizes; a normalized stream; a product of images, or one alone;
  images side by side; the mean or the maximum of an image over positions;
  values, queries and keys; a parameter that is added, or a constant array of
  unit size; the number 1; the entries of one-hot rows that are not 0; an input;
  normal random numbers of unit size; an unknown term, with all that contributes
  to it as `inner`"""
  site: Site = ()
  """of the operation: always the latest of its repeats; of an input or of
  random numbers, their own"""
  path: str = ""
  """path of the bias; "" if it is not a parameter"""
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
  """factors of a product: independent, given what feeds their streams"""
  factor: float = 1.0
  scales: tuple[Scale, ...] = ()
  share: float = 1.0
  """the share of the entries it names that it takes; above 1 where they are
  repeated"""
  mixing: Mixing | None = None
  """of positions"""


Stream = tuple[Term, ...]
"""A sum of independent terms."""


class Image(NamedTuple):
  """A function of a stream, applied entry by entry."""

  activation: Activation
  stream: Stream
  share: float = 1.0
  """share of the stream's entries that it takes, likewise: ½ for the halves of
  a gated unit"""
  weight: float = 1.0
  """where images are side by side, its share of all entries"""


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
  """a function of one scalar; None if none can be recovered"""
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
  """the terms that this source is a sum of; None if they are unknown"""
  reached: Stream | None = None
  """in that case, all that contributes to it; None if that is unknown too"""
  share: float = 1.0
  """share of the source's entries that it takes; > 1 if they are repeated"""

  @property
  def from_outside(self) -> bool:
    """Whether no operation comes before the source."""
    return self.reason in ("input", "indices", "positions", "constant")


@dataclasses.dataclass(frozen=True, repr=False)
class LinearOp:
  """One use of a parameter in a linear operation."""

  paths: tuple[str, ...]
  """paths of the parameters, such as "params/Dense_0/kernel"; several if
  the kernel is made of several, none for a constant"""
  kind: Literal["dot", "convolution", "embedding", "ragged_dot", "data"]
  """the operation; "data" has no parameter at all (attention scores)"""
  shape: tuple[int, ...]
  """shape of the output, without the axes of surrounding loops"""
  dtype: Any
  """dtype of the output"""
  fan_in: float
  """terms summed into one output element, away from borders"""
  fan_out: float
  """output elements that one input element feeds, away from borders"""
  origin: Literal["parameter", "derived", "constant", "data"]
  """of the kernel: a leaf seen through a linear view; computed from leaves;
  a constant that the function closes over; or data"""
  axes: Axes
  """which axes of the operands are summed, and which are samples"""
  place: Place
  """where the operation is in the program"""
  feed: Feed
  """what feeds the operation; in a scan, what feeds the first repeat"""
  view: View | None = None
  """how the kernel is made of parameters; None if it is not a parameter"""
  groups: int = 1
  strides: tuple[int, ...] = ()
  dilation: tuple[int, ...] = ()
  later_feed: Feed | None = None
  """in a scan, what feeds the repeats after the first"""
  kernel_shape: tuple[int, ...] = ()
  """shape of the operand that is the kernel, in one repeat"""
  valid_fans: tuple[float, float] | None = None
  """fan_in and fan_out without padding terms, if there are any"""
  taps: tuple[Any, ...] = dataclasses.field(default=(), compare=False)
  """of a convolution, for each axis [outputs, taps]: the entry met, or -1"""
  summed_over: tuple[tuple[str, int], ...] = ()
  """axes of a shard_map's mesh, with sizes, over whose devices the output is
  summed: `fan_in` counts the terms on all of them"""

  def __repr__(self) -> str:
    """Short: path, kind, fans, repeats, and what feeds it."""
    name = f"{self.path or '(constant)'}: {self.kind}"
    times = "".join(f" × {length}" for length in self.repeats)
    fans = f"{self.fan_in:g}→{self.fan_out:g}"
    feed = self.usual_feed
    source = (feed.activation and known_name(feed.activation)) or feed.reason
    return f"LinearOp({name} {fans}{times}, fed by {source})"

  def feed_at(self, repeat: tuple[int, ...]) -> Feed:
    """Returns what feeds the operation in one repeat."""
    if self.later_feed is None or self.place.is_first(repeat):
      return self.feed
    return self.later_feed

  @property
  def usual_feed(self) -> Feed:
    """What feeds the operation in most repeats."""
    return self.later_feed or self.feed

  @property
  def valid_fan_in(self) -> float:
    """fan_in without padding terms: the mean over all outputs."""
    return self.fan_in if self.valid_fans is None else self.valid_fans[0]

  @property
  def valid_fan_out(self) -> float:
    """fan_out without padding: the mean over all inputs, borders included."""
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
    """Shape of the parameter; None if there is none."""
    return None if self.view is None else self.view.leaf_shape

  @property
  def in_axes(self) -> tuple[int, ...] | None:
    """Axes of the parameter that are summed; None if they are unknown."""
    return self._leaf_axes(self.axes.summed, self.axes.free)

  @property
  def out_axes(self) -> tuple[int, ...] | None:
    """Axes of the parameter that become output features; None if unknown."""
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
    """Whether the repeats of a surrounding scan share one kernel."""
    own = () if self.view is None else self.view.scans
    return len(own) < len(self.place.scans)

  @property
  def repeats(self) -> tuple[int, ...]:
    """Lengths of the surrounding scans, outermost first."""
    return self.place.repeats

  @property
  def activation(self) -> Activation | None:
    """The activation that feeds the operation (in its first repeat), if any."""
    return self.feed.activation

  @property
  def reason(self) -> str:
    """What the activation is applied to, in words; see `Feed`."""
    return self.feed.reason

  @property
  def source(self) -> str | None:
    """Path of the operation whose output the activation is applied to."""
    return self.feed.source


class Row(NamedTuple):
  """An operation in one repeat of the scans around it."""

  number: int
  """index of the operation in `graph.ops`"""
  op: LinearOp
  repeat: tuple[int, ...]
  """index in each scan, outermost first"""

  @property
  def feed(self) -> Feed:
    """What feeds the operation in this repeat."""
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
  """every use of a parameter, in the order of execution; uses that reach no
  output of the function count only if the parameter has no other"""
  products: tuple[LinearOp, ...]
  """products of two data operands, such as attention scores, in order"""
  elementwise: tuple[str, ...]
  """parameters that shift or scale the entries of a signal one by one: biases
  and scales of normalizations"""
  unused: tuple[str, ...]
  """parameters that meet no data and are not outputs themselves"""
  not_followed: dict[str, str] = dataclasses.field(hash=False)
  """parameters whose use cannot be read, and the primitive in which they meet
  data: a product whose kernel data computes from them, a loop whose carry they
  multiply, or a sum or product that is neither a bias nor a scale"""
  opaque: tuple[str, ...]
  """names of calls that contain linear operations but could not be entered"""
  statistics: tuple[int, ...] = ()
  """input leaves, by number, that scale or shift all samples alike: they are
  read as constants, not as data"""
  output: Stream | None = None
  """the sum that yields (perhaps through a function) the output that contains
  the last operation's; None if it is unknown"""

  @functools.cached_property
  def rows(self) -> tuple[Row, ...]:
    """Every repeat of every operation, in the order of execution.

    Operations in one scan take turns; a reversed scan counts down.
    """
    rows = (
      Row(number, op, repeat)
      for number, op in enumerate(self.ops)
      for repeat in itertools.product(*map(range, op.repeats))
    )
    return tuple(sorted(rows, key=_turn))

  @functools.cached_property
  def rows_by_path(self) -> dict[str, list[int]]:
    """Positions in `rows` of each path's operations, in order."""
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
