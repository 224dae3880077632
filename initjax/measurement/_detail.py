"""What `detail=True` adds: dead units, correlation of samples, saturation.

Units and samples are distinguished by the operation's own axes, so transposed
layouts work: a unit is a place along the summed axes of its input (a
channel of a convolution), a sample a place along the free ones (an image).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._statistics import functions_of, in_units, wide
from initjax.graph import Feed, LinearOp, Scan
from initjax.typing import Activation


class Detail(NamedTuple):
  """More on one operation; NaN where it cannot be said."""

  dead_units: Any
  """units of its input that are exactly 0 on every sample"""
  units: Any
  """how many its input has"""
  samples: Any
  """how many there are of its output"""
  correlation: Any
  """mean cosine between its outputs on two different samples"""
  saturation: Any = None
  """E|φ'| of what feeds it; known when all has run"""


LENGTH = 5
"""of what is summed of one operation, in one small array: dead units, units,
samples, those that have a direction, and |Σ u|² over these"""


def detail_sums(op: LinearOp, signal: Any, output: Any, largest: Any) -> Any:
  """The sums [5] of an operation just run; NaN if only its output is at hand.

  Args:
    op: the operation.
    signal: the operand that is no kernel, if it is at hand; like all arrays
      here of JAX or of NumPy.
    output: what it computed.
    largest: max |output|.
  """
  dead = units = samples = live = squares = np.nan
  xp = functions_of(output)
  if signal is not None and op.kind != "data":
    dead_units, directions = _BY_NUMPY if xp is np else _BY_JAX
    if op.axes.units:
      dead, units = dead_units(signal, op.axes.units)
    samples, live, squares = directions(output, largest, op.axes.samples)
  numbers = (dead, units, samples, live, squares)
  return xp.stack([xp.asarray(number, np.float32) for number in numbers])


def _dead_units(signal: Any, units: tuple[int, ...]) -> tuple[Any, int]:
  """How many units are 0 on every sample, and how many there are.

  NaN if there is no sample.
  """
  samples = tuple(axis for axis in range(signal.ndim) if axis not in units)
  dead = (signal == 0).all(samples)
  count = dead.sum(dtype=np.float32)
  return count if signal.size else count + np.nan, dead.size


def _directions(
  output: Any, largest: Any, samples: tuple[int, ...]
) -> tuple[int, Any, Any]:
  """The number of samples a, of those with a direction u_a, and |Σ u_a|².

  Samples that are exactly 0 have none. NaN if each is a single number, whose
  cosine with another is 1 or -1 and tells nothing.
  """
  xp, x = functions_of(output), wide(output)
  x = in_units(x, largest)
  rest = tuple(axis for axis in range(x.ndim) if axis not in samples)
  squares = (x * x).sum(axis=rest, keepdims=True)
  # As a real number: the pairs of 46,341 samples are more than int32 holds.
  live = (squares > 0).sum(dtype=np.float32)
  tiny = jnp.finfo(x.dtype).tiny
  units = x / xp.sqrt(xp.maximum(squares, tiny))
  total = units.sum(axis=samples)
  number = squares.size
  single = x.size == number
  return number, live, np.nan if single else (total * total).sum()


_BY_NUMPY = _dead_units, _directions
_BY_JAX = (  # so that operations of one shape are traced once
  jax.jit(_dead_units, static_argnums=1),
  jax.jit(_directions, static_argnums=2),
)


def detail_of(sums: np.ndarray) -> Detail:
  """What the sums [..., 5] of operations tell, all but saturation.

  The mean cosine of N samples is (|Σ u|² - N) / (N (N - 1)).
  """
  dead, units, samples, live, squares = np.moveaxis(sums, -1, 0)
  pairs = live * (live - 1)
  cosine = (squares - live) / np.maximum(pairs, 1)
  return Detail(dead, units, samples, np.where(pairs > 0, cosine, np.nan))


def mean_slope(activation: Activation, source: jax.Array) -> jax.Array:
  """E|φ'| over all entries of the source; its own scale is that of φ."""
  if jnp.issubdtype(source.dtype, jnp.floating):
    source = wide(source)
  _, slope = jax.jvp(activation, (source,), (jnp.ones_like(source),))
  return jnp.mean(abs(slope)).astype(jnp.float32)


# Which row of the source fed which row of the operation


def saturation(op: LinearOp, first: Any, later: Any) -> np.ndarray:
  """E|φ'| for each row [..., *repeats] of an operation; NaN if unknown.

  Args:
    op: the operation.
    first: E|φ'| where the source of its feed arose, in the rows of that place.
    later: the same for what feeds later repeats of a scan.
  """
  scans = op.place.scans
  rows = _fed(op.feed, first, scans)
  feed = op.later_feed
  if feed is not None and not scans:  # in a while loop: of no one repeat
    return np.full((), np.nan, np.float32)
  same = feed is None or feed.place is None or feed.place == op.feed.place
  if feed is None or same or not rows.size:  # or the loop has no repeat
    return rows
  moved = np.roll(_fed(feed, later, scans), -1 if scans[-1].reverse else 1, -1)
  start = -1 if scans[-1].reverse else 0  # the repeat that runs first
  moved[..., start] = rows[..., start]
  return moved


def _fed(feed: Feed, rows: Any, scans: tuple[Scan, ...]) -> np.ndarray:
  """Rows of a source, for the scans around the operation that it feeds."""
  repeats = tuple(scan.length for scan in scans)
  if rows is None or feed.place is None:
    return np.full(repeats, np.nan, np.float32)
  rows, around = np.asarray(rows), feed.place.scans
  pairs = list(zip(scans, around, strict=False))
  common = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
  if 0 in rows.shape:  # a loop of no repeat leaves what entered it
    return np.full(repeats, np.nan, np.float32)
  for scan in reversed(around[common:]):  # what a loop leaves is its last
    rows = rows[..., 0 if scan.reverse else -1]
  lead = rows.shape[: rows.ndim - common]
  rows = rows.reshape((*rows.shape, *(1,) * (len(scans) - common)))
  return np.broadcast_to(rows, (*lead, *repeats)).copy()
