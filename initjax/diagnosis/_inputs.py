"""What the inputs alone explain, checked before the model is judged.

On zeros, or on bytes that nobody scaled, a healthy model looks sick: signals
stop, or saturate. In this case the verdict names the input, and the verdicts
that it explains are withheld.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from initjax._paths import leaves_by_path
from initjax._sharding import reduced
from initjax.diagnosis._fixes import fix, named
from initjax.diagnosis._observe import Observed
from initjax.diagnosis._parameters import check_values
from initjax.measurement import arrays_of, in_double, kernel_variance
from initjax.reports import NOUNS
from initjax.typing import Verdict

_PARALLEL = 0.01  # of the input's size: how far samples leave one direction
_UNSCALED = 16.0  # root mean square that a first operation is fed; 1 is usual
_PIXELS = 255


class Facts(NamedTuple):
  """One array of data, in numbers."""

  path: str
  shape: tuple[int, ...]
  dtype: Any
  constant: bool
  """all entries are equal"""
  value: float
  """the first entry"""
  repeated: bool
  """all that lies along the first axis is equal"""
  parallel: bool
  """all that lies along it is a multiple of one of them"""
  pixels: bool
  """whole numbers from 0 to 255, and not just a few small ones"""

  @property
  def is_float(self) -> bool:
    return bool(jnp.issubdtype(self.dtype, jnp.inexact))


def check_inputs(observed: Observed, inputs: Any) -> Iterator[Verdict]:
  """All checks of this module; at most one of samples that are too alike."""
  facts = [
    _facts_of(path, leaf)
    for path, leaf in _data_of(inputs, observed.report.graph.statistics)
  ]
  facts = [fact for fact in facts if math.prod(fact.shape)]
  for check in (_zeros, _constant, _repeated, _parallel):
    found = check(facts)
    if found:
      yield found
      break
  else:
    yield from _one_sample(observed)
  yield from _unscaled(observed, facts)


def nonfinite_inputs(observed: Observed, inputs: Any) -> Iterator[Verdict]:
  """NaN and infinities, but for masks of -∞ that leave all signals finite."""
  found = observed.found
  spread = any(found.along(each).nonfinite.any() for each in NOUNS)
  floats = arrays_of(inputs)
  for verdict in check_values("input", floats):
    if spread or any(reduced(_has_nan, x) for x in floats.values()):
      yield verdict


def _has_nan(x: Any) -> Any:
  return (x != x).any()


def unexplained(
  verdicts: Iterable[Verdict], of_inputs: Iterable[Verdict]
) -> Iterator[Verdict]:
  """Those on signals that none of the verdicts on inputs explains."""
  kinds = {verdict.kind for verdict in of_inputs}
  if kinds & OF_INPUTS:
    return
  explained = {
    part for kind in kinds for part in _EXPLAINED.get(kind, ("nothing",))
  }
  for verdict in verdicts:
    if not any(part in verdict.kind for part in explained):
      yield verdict


OF_INPUTS = {"non-finite input", "ids beyond the vocabulary"}
"""Kinds of verdicts that explain all others on signals."""
_EXPLAINED = {
  "input of zeros": (
    *("cut off", "exploding", "vanishing", "underflows", "no gradient"),
    *("dead units", "rank collapse"),
  ),
  "constant input": ("rank collapse",),
  "repeated sample": ("rank collapse",),
  "input of rank one": ("rank collapse",),
  "unscaled input": ("rank collapse", "saturation"),
}
"""Parts of the kinds of verdicts that are not given."""


def _data_of(
  inputs: Any, statistics: Iterable[int]
) -> Iterator[tuple[str, Any]]:
  """Arrays by path; no numbers, keys, nor running statistics."""
  for at, (path, leaf) in enumerate(leaves_by_path(inputs).items()):
    dtype, shape = getattr(leaf, "dtype", None), getattr(leaf, "shape", ())
    is_number = dtype is not None and (
      jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)
    )
    is_key = dtype == jnp.uint32 and shape[-1:] == (2,)
    if is_number and shape and not is_key and at not in statistics:
      yield path, leaf


def _facts_of(path: str, leaf: Any) -> Facts:
  numbers = (
    [bool(x) for x in reduced(_tests, leaf)] if leaf.size else [False] * 4
  )
  value = reduced(_first, leaf) if leaf.size else math.nan
  constant, repeated, parallel, pixels = numbers
  return Facts(
    path,
    leaf.shape,
    leaf.dtype,
    constant,
    float(value),
    repeated,
    parallel,
    pixels,
  )


def _first(x: Any) -> Any:
  return in_double(x).ravel()[0].real


def _tests(x: Any) -> tuple[Any, ...]:
  """Whether it is constant, repeated, parallel, and of pixels."""
  x = in_double(x)
  rows = x.reshape(x.shape[0], -1)
  squares = (abs(rows) ** 2).sum(1)
  longest = rows[squares.argmax()]
  part = (rows * longest.conj()).sum(1) / squares.max()
  left = (abs(rows - part[:, None] * longest) ** 2).sum()
  whole = (x.real == x.real.round()).all() & (x.real >= 0).all()
  return (
    (x == rows[0, 0]).all(),
    (rows == rows[:1]).all(),
    left < _PARALLEL**2 * squares.sum(),
    whole & (x.real.max() > _PIXELS / 2) & (x.real.max() <= _PIXELS),
  )


def _zeros(facts: list[Facts]) -> Verdict | None:
  """Also where ids or masks beside them are one number throughout."""
  floats = [fact.path for fact in facts if fact.is_float and not fact.value]
  if not floats or not all(
    fact.constant and not (fact.is_float and fact.value) for fact in facts
  ):
    return None
  return Verdict(
    "input of zeros",
    "warning",
    "",
    f"All entries of the input are 0{_which(floats, facts)}: no signal goes "
    "in, so none can be judged.",
    _SAMPLES,
  )


def _constant(facts: list[Facts]) -> Verdict | None:
  many = any(math.prod(fact.shape) > 2 for fact in facts)
  if not many or not all(fact.constant for fact in facts):
    return None
  value = next((f.value for f in facts if f.is_float), facts[0].value)
  return Verdict(
    "constant input",
    "warning",
    "",
    f"All entries of the input are {value:g}, so every sample is the same, "
    "and the check for samples that look alike is skipped.",
    _SAMPLES,
  )


def _repeated(facts: list[Facts]) -> Verdict | None:
  lengths = {fact.shape[0] for fact in facts}
  alike = all(fact.repeated for fact in facts)
  if not facts or len(lengths) > 1 or min(lengths) < 2 or not alike:
    return None
  return Verdict(
    "repeated sample",
    "warning",
    "",
    f"All {min(lengths)} samples of the input are equal, so the check for "
    "samples that look alike is skipped.",
    _SAMPLES,
  )


def _parallel(facts: list[Facts]) -> Verdict | None:
  """Matrices of at least three rows and columns."""
  wide = [fact.shape[0] > 2 and math.prod(fact.shape[1:]) > 2 for fact in facts]
  alike = [fact.parallel and fact.is_float for fact in facts]
  if not facts or not all(wide) or not all(alike):
    return None
  return Verdict(
    "input of rank one",
    "warning",
    "",
    f"To within {_PARALLEL:.0%}, all samples of the input are multiples of "
    "one of them, so the check for samples that look alike is skipped.",
    _SAMPLES,
  )


_SAMPLES = fix(
  "", "pass a batch like those used in training, or independent N(0, 1) numbers"
)


def _which(paths: list[str], facts: list[Facts]) -> str:
  return f" ({named(paths)})" if len(facts) > 1 else ""


def _one_sample(observed: Observed) -> Iterator[Verdict]:
  samples = observed.found.detail.samples
  known = samples[np.isfinite(samples)]
  if known.size and known.max() == 1:
    yield Verdict(
      "one sample",
      "note",
      "",
      "The input is a single sample, so the check for samples that look "
      "alike is skipped. On one sample, half of all rectified units are off "
      "by chance.",
      fix("", "pass a batch like those used in training, if there is one"),
    )


def _unscaled(observed: Observed, facts: list[Facts]) -> Iterator[Verdict]:
  """Bytes of images that reach the first operation as they are.

  A model may scale them itself: what its first operations give, of kernels
  whose size is known, tells the size of what they were fed.
  """
  found = [f.path for f in facts if f.pixels or f.dtype == np.uint8]
  if not found:
    return
  for index, row in enumerate(observed.found.rows):
    if row.feed.reason != "input" or row.op.kind == "embedding":
      continue
    given = kernel_variance(row.op, row.repeat, observed.leaves)
    seen = observed.found.log2_moments["forward"][:, index].mean()
    size = (2.0**seen / (given * row.op.valid_fan_in)) ** 0.5
    if size > _UNSCALED:
      yield Verdict(
        "unscaled input",
        "warning",
        "",
        f"The input{_which(found, facts)} looks like bytes from 0 to 255, and "
        f"reaches {row.op.path} with a root mean square of about {size:.0f}, "
        "where about 1 is usual.",
        fix("x = x.astype(jnp.float32) / 127.5 - 1", "before the model"),
        (index,),
      )
      return
