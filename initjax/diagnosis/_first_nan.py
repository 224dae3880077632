"""Finds the first equation that turns finite numbers into NaN or an infinity.

The model runs once more, equation by equation and with concrete values; of a
loop, only the repeat that produces them. The origin of each non-finite array is
recorded, and the origin of the outputs is reported: a `where` may have
discarded the rest.
"""

import functools
import linecache
import math
import pathlib
import sysconfig
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from initjax._executables import fresh_jaxpr
from initjax.diagnosis._observe import Call
from initjax.graph import (
  FORWARD,
  REMAT,
  Atom,
  Equation,
  Site,
  Slot,
  Visited,
  Visitor,
  equations,
  equations_around,
  run,
  scan_operands,
  sub_jaxprs,
)
from initjax.measurement import gradient_of

_ENTERED = FORWARD - REMAT - {"shard_map", "scan"}
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
  inside = [each for each in origins.values() if also_inside]
  made = [each for each in reached if each.equation]
  made += [each for each in inside if math.isnan(each.result)]
  return next(iter(made), None)


def _is_bad(x: Any) -> bool:
  inexact = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
  return bool(inexact and not _of(x).isfinite(x).all())


def _has_nan(x: Any) -> bool:
  return bool(_of(x).isnan(x).any())


def _worst(x: Any) -> int:
  """Where NaN is first, or else an infinity."""
  of = _of(x)
  return int((of.isnan(x) if _has_nan(x) else ~of.isfinite(x)).argmax())


def _of(x: Any) -> Any:
  """NumPy answers at once; a large array is asked where it is."""
  large = isinstance(x, jax.Array) and x.size > 2**16
  return jnp if large and jax.default_backend() != "cpu" else np


def _origin(
  visited: Visited,
  output: Any,
  origins: dict[int, Origin],
  line_at: Callable[[Site], Line | None],
) -> Origin:
  """That of an operand, unless all is well with them, or they were no NaN."""
  operands = visited.operands or []
  equation, before = visited.equation, None
  pairs = list(zip(equation.invars, operands, strict=True))
  bad = [pair for pair in pairs if _is_bad(pair[1])]
  if bad:
    atom, worst = max(bad, key=lambda pair: _has_nan(pair[1]))
    before = _known(atom, worst, origins)
    if _has_nan(worst) or not _has_nan(output):
      return before
  line = line_at(visited.site)
  inside = _inside(equation, operands)
  if inside is not None:  # where all that came in looks like a constant
    made = inside.before if inside.before and inside.before.equation else before
    return inside._replace(line=inside.line or line, before=made)
  at = _worst(output)
  return Origin(
    equation,
    _operands_at(equation, operands, output, at),
    _entry(output, at),
    before,
    line=line,
  )


def _inside(equation: Equation, operands: Sequence[Any]) -> Origin | None:
  """The origin in a call that was run as a whole, if it can be entered."""
  name = equation.primitive.name
  if name in REMAT:
    inner = sub_jaxprs(equation.params)[0]
    return _search(inner, operands, also_inside=False)
  return _in_repeat(equation, operands) if name == "scan" else None


def _in_repeat(equation: Equation, operands: Sequence[Any]) -> Origin | None:
  """The origin in the first repeat of a scan that makes one."""
  params = equation.params
  num_consts, num_carry = scan_operands(params)
  consts = list(operands[:num_consts])
  carry, stacked = operands[num_consts:][:num_carry], operands[num_consts:]
  stacked, length = stacked[num_carry:], params["length"]

  @jax.jit
  def repeat(at: Any, carry: Any) -> Any:
    xs = [lax.dynamic_index_in_dim(x, at, keepdims=False) for x in stacked]
    arguments = [*consts, *carry, *xs]
    outputs, *_ = run(params["jaxpr"], arguments, _NOBODY, {})
    return arguments, outputs

  for at in range(length)[:: -1 if params["reverse"] else 1]:
    with jax.disable_jit(False):
      arguments, outputs = repeat(np.int32(at), carry)
    if any(map(_is_bad, outputs)):
      found = _search(params["jaxpr"], arguments, also_inside=False)
      if found is not None:
        return found
    carry = outputs[:num_carry]
  return None


_NOBODY = Visitor(lambda visited, slot, state: (visited.outputs, None, state))


def _known(atom: Atom, x: Any, origins: dict[int, Origin]) -> Origin:
  """Of an array; what no equation made is a constant, or a part of one."""
  constant = Origin(result=math.inf)
  if hasattr(atom, "val"):
    return constant
  latest = next(reversed(origins.values()), constant)
  return origins.get(id(x), latest)


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
  for frame in frames:
    name = frame.file_name
    if not name.startswith(_libraries()) and "-packages" not in name:
      text = linecache.getline(name, frame.line_num).strip()
      return Line(f"{pathlib.Path(name).name}:{frame.line_num}", text)
  return None


@functools.cache
def _libraries() -> tuple[str, ...]:
  """Where Python's own files are, and these; and what is no file."""
  names = ("stdlib", "platstdlib", "purelib", "platlib")
  own = str(pathlib.Path(__file__).parent.parent)
  return (*map(sysconfig.get_path, names), own, "<")
