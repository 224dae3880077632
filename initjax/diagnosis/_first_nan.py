"""The first equation that makes NaN, or an infinity, of numbers that are none.

The model runs once more, equation by equation and with values at hand, so loops
are unrolled. What an array that is not finite comes from is noted, and what the
outputs come from is told: a `where` may have discarded the rest.
"""

import linecache
import math
import pathlib
import sysconfig
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._executables import fresh_jaxpr
from initjax.diagnosis._observe import Call
from initjax.graph import (
  FORWARD,
  REMAT,
  Equation,
  Site,
  Slot,
  Visited,
  Visitor,
  equations,
  equations_around,
  run,
  sub_jaxprs,
)
from initjax.measurement import gradient_of

_ENTERED = FORWARD - REMAT - {"shard_map"}
"""What runs with values at hand where nothing is jitted."""


class Line(NamedTuple):
  """A line of the user's own code."""

  place: str
  text: str


class Origin(NamedTuple):
  """Where a number arises that is not finite, from numbers that are."""

  equation: Equation | None = None
  """None for a constant of the model"""
  operands: tuple[float, ...] = ()
  """that met in it; NaN where this is not one entry each"""
  result: float = math.nan
  before: "Origin | None" = None
  """the infinity that NaN was made of"""
  in_gradient: bool = False
  line: Line | None = None
  slope_of: str = ""
  """in a gradient, the primitive that has this derivative, if known"""

  @property
  def root(self) -> "Origin":
    """What it began with."""
    return self if self.before is None else self.before

  @property
  def name(self) -> str:
    """Of the primitive."""
    return self.equation.primitive.name if self.equation else "a constant"


def first_nan(call: Call, *, in_signal: bool) -> Origin | None:
  """The origin of what is not finite: going forward, else in the gradient.

  Args:
    call: of the model.
    in_signal: whether some signal is not finite, or gradients alone: then what
      the outputs do not come from, going forward, is not to blame.
  """
  forward, _ = fresh_jaxpr(call.fn, call.params, *call.inputs)
  given = jax.tree.leaves((call.params, call.inputs))
  found = _search(forward, given, also_inside=in_signal)
  if found is not None or in_signal:
    return found

  def gradient(params: Any, *inputs: Any) -> Any:
    return gradient_of(call.fn, params, inputs, **call.options)

  backward, _ = fresh_jaxpr(gradient, call.params, *call.inputs)
  found = _search(backward, given, also_inside=True)
  if found is None:
    return None
  begun = found.root._replace(slope_of=_slope_of(found.root, backward))
  if found.before is None:
    return begun._replace(in_gradient=True)
  return found._replace(in_gradient=True, before=begun)


def _search(
  jaxpr: Any, arguments: Sequence[Any], *, also_inside: bool
) -> Origin | None:
  """What the outputs come from, or else, if wanted, the first NaN."""
  origins: dict[int, Origin] = {}  # of arrays, which are kept
  kept: list[Any] = []

  def line_at(site: Site) -> Line | None:
    calls = reversed(list(equations_around(jaxpr, site)))
    return next(filter(None, map(_line_of, calls)), None)

  def visit(
    visited: Visited, slot: Slot, state: None
  ) -> tuple[list[Any], None, None]:
    for output in filter(_is_bad, visited.outputs):
      origins[id(output)] = _origin(visited, output, origins, line_at)
      kept.append(output)
    return visited.outputs, None, state

  slots: dict[Site, Slot] = {
    site: Slot(None, None)
    for site, equation in equations(jaxpr, _ENTERED)
    if any(jnp.issubdtype(x.aval.dtype, jnp.inexact) for x in equation.outvars)
  }
  with jax.disable_jit():
    outputs, *_ = run(jaxpr, arguments, Visitor(visit), slots, enter=_ENTERED)
  reached = [origins[id(x)] for x in outputs if id(x) in origins]
  made = [each for each in origins.values() if math.isnan(each.result)]
  return next(iter([*reached, *(made if also_inside else [])]), None)


def _is_bad(x: Any) -> bool:
  inexact = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
  return bool(inexact and not jnp.isfinite(x).all())


def _has_nan(x: Any) -> bool:
  return bool(jnp.isnan(x).any())


def _origin(
  visited: Visited,
  output: Any,
  origins: dict[int, Origin],
  line_at: Callable[[Site], Line | None],
) -> Origin:
  """That of an operand, unless all is well with them, or they were no NaN."""
  operands = visited.operands or []
  bad = sorted(filter(_is_bad, operands), key=_has_nan, reverse=True)
  known = [origins.get(id(x)) or _of_slice(origins) for x in bad]
  if known and (_has_nan(bad[0]) or not _has_nan(output)):
    return known[0]
  equation, line = visited.equation, line_at(visited.site)
  if equation.primitive.name in REMAT:
    inner = sub_jaxprs(equation.params)[0]
    inside = _search(inner, operands, also_inside=False)
    if inside is not None:
      return inside._replace(line=inside.line or line)
  is_worst = jnp.isnan(output) if _has_nan(output) else ~jnp.isfinite(output)
  at = int(jnp.argmax(is_worst))
  return Origin(
    equation,
    _operands_at(equation, operands, output, at),
    _entry(output, at),
    known[0] if known else None,
    line=line,
  )


def _of_slice(origins: dict[int, Origin]) -> Origin:
  """Of an array that no equation made: a part of one, or a constant."""
  return next(reversed(origins.values()), Origin(result=math.inf))


def _operands_at(
  equation: Equation, operands: Sequence[Any], output: Any, at: int
) -> tuple[float, ...]:
  """The numbers that met; of a look-up the indices' ends, and the table."""
  if equation.primitive.name == "gather":
    table, indices = operands[:2]
    (axis, *_) = equation.params["dimension_numbers"].start_index_map
    return float(indices.min()), float(indices.max()), table.shape[axis]
  return tuple(_beside(x, output, at) for x in operands)


def _beside(x: Any, output: Any, at: int) -> float:
  """The entry of an operand that met in an entry of the output, if one did."""
  if jnp.size(x) == 1:
    return _entry(x, 0)
  sizes = zip(jnp.shape(x), output.shape, strict=False)
  if jnp.ndim(x) != output.ndim or any(n not in (1, m) for n, m in sizes):
    return math.nan
  places = zip(np.unravel_index(at, output.shape), x.shape, strict=True)
  return float(x[tuple(min(int(i), n - 1) for i, n in places)].real)


def _entry(x: Any, at: int) -> float:
  """Of complex numbers, the real part."""
  return float(jnp.ravel(x)[at].real)


def _slope_of(origin: Origin, jaxpr: Any) -> str:
  """√x has the slope ½/√x, log x has 1/x: what made, or took, the divisor."""
  if origin.name != "div" or origin.equation is None:
    return ""
  divisor = origin.equation.invars[-1]
  for _, equation in equations(jaxpr, FORWARD):
    name = equation.primitive.name
    atoms = equation.invars if name == "log" else equation.outvars
    if name in _SLOPES and any(atom is divisor for atom in atoms):
      return name
  return ""


_SLOPES = ("log", "sqrt", "cbrt")


def _line_of(equation: Equation) -> Line | None:
  """The innermost line that is in no library, where JAX noted one."""
  source = getattr(equation, "source_info", None)
  frames = getattr(getattr(source, "traceback", None), "frames", ())
  libraries = tuple(sysconfig.get_path(name) for name in _LIBRARIES)
  own = str(pathlib.Path(__file__).parent.parent)
  for frame in frames:
    name = frame.file_name
    if not name.startswith((*libraries, own, "<")) and "-packages" not in name:
      text = linecache.getline(name, frame.line_num).strip()
      return Line(f"{pathlib.Path(name).name}:{frame.line_num}", text)
  return None


_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
