"""An activation in float64, though it casts to less inside.

Models compute activations in bfloat16 or float32; what such a cast rounds away
is noise that no quadrature resolves, and no part of φ. Two steps look through
it. While Python runs φ (and the parts that are jitted, unless φ holds a loop),
casts to fewer bits return their argument, so that the constants that φ makes
for it are exact too. What is in a jaxpr by then (of loops, of derivative rules)
is evaluated with every real number in float64; its constants stay as rounded.
Casts to integers and booleans stay.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initjax.typing import Activation

_CALLS = """checkpoint closed_call core_call custom_jvp_call custom_vjp_call
jit pjit remat remat2"""
_INLINED = frozenset(_CALLS.split())
_JITS = frozenset(("jit", "pjit"))
_LOOPS = frozenset(("cond", "scan", "while"))
_BY_BITS = frozenset(("bitcast_convert_type", "nextafter", "pure_callback"))


def _is_narrow(dtype: Any) -> bool:
  """Whether numbers of this type are real or complex, and not in float64."""
  return dtype != _wide_type(dtype)


def _wide_type(dtype: Any) -> Any:
  if jnp.issubdtype(dtype, jnp.complexfloating):
    return np.dtype(np.complex128)
  return np.dtype(np.float64) if jnp.issubdtype(dtype, jnp.floating) else dtype


def _wide(x: Any) -> Any:
  dtype = jnp.result_type(x)
  return jnp.asarray(x).astype(_wide_type(dtype)) if _is_narrow(dtype) else x


# While Python runs φ


def uncast(activation: Activation) -> Activation:
  """φ, in which casts to fewer bits return their argument."""
  from jax.extend import core

  def run(x: jax.Array) -> jax.Array:
    with core.take_current_trace() as parent:
      trace = _Uncast(parent)
      with core.set_current_trace(trace):
        out = activation(_Seen(trace, x))
      trace.invalidate()
      return jax.tree.map(trace.inside, out)

  return run


class _Uncast(jax.core.Trace):
  """Passes everything on to the trace around it, but for casts."""

  def __init__(self, parent: Any) -> None:
    super().__init__()
    self.parent = parent
    self.requires_low = parent.requires_low

  def inside(self, x: Any) -> Any:
    """What the trace around it knows the value as."""
    own = isinstance(x, _Seen) and x._trace is self
    return x.value if own else x

  def stage_value(self, val: Any) -> Any:
    return self._seen(self.parent.stage_value(self.inside(val)))

  def process_primitive(
    self, primitive: Any, tracers: Sequence[Any], params: Any, /
  ) -> Any:
    from jax.extend import core

    values = [self.inside(x) for x in tracers]
    if primitive.name == "convert_element_type":
      (x,), wanted = values, params["new_dtype"]
      if jnp.result_type(x) == _wide_type(wanted) and _is_narrow(wanted):
        return tracers[0]
    if not any(map(_inner_of, params.values())):
      with core.set_current_trace(self.parent):
        values = [_wide(x) for x in values]
    out = self.parent.process_primitive(primitive, values, params)
    return self._seen(out)

  def process_custom_jvp_call(
    self, primitive: Any, fun: Any, jvp: Any, tracers: Any, /, **options: Any
  ) -> Any:
    values = [self.inside(x) for x in tracers]
    return self._seen(
      self.parent.process_custom_jvp_call(
        primitive, fun, jvp, values, **options
      )
    )

  def process_custom_vjp_call(
    self,
    primitive: Any,
    fun: Any,
    fwd: Any,
    bwd: Any,
    tracers: Any,
    /,
    **options: Any,
  ) -> Any:
    values = [self.inside(x) for x in tracers]
    return self._seen(
      self.parent.process_custom_vjp_call(
        primitive, fun, fwd, bwd, values, **options
      )
    )

  def _seen(self, out: Any) -> Any:
    if isinstance(out, (tuple, list)):
      return [_Seen(self, x) for x in out]
    return _Seen(self, out)


class _Seen(jax.core.Tracer):
  """A value of the trace around, while Python runs φ."""

  def __init__(self, trace: _Uncast, value: Any) -> None:
    super().__init__(trace, jax.typeof(value))
    self.value = value


# In a jaxpr


def widened(jaxpr: Any) -> Any:
  """The closed jaxpr with all real numbers in float64; no derivative of it.

  A rule that a function declares for its derivative is lost; so derivatives
  are taken before.
  """
  if not _holds_narrow(jaxpr):
    return jaxpr
  shapes = [
    jax.ShapeDtypeStruct(aval.shape, _wide_type(aval.dtype))
    for aval in jaxpr.in_avals
  ]
  return jax.make_jaxpr(lambda *args: _run(jaxpr, args))(*shapes)


def _open(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
  return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def _inner_of(parameter: Any) -> list[Any]:
  """The jaxprs that a parameter of an equation is or holds."""
  items = parameter if isinstance(parameter, (tuple, list)) else (parameter,)
  return [item for item in items if hasattr(_open(item)[0], "eqns")]


def _inner(equation: Any) -> list[Any]:
  return [x for each in equation.params.values() for x in _inner_of(each)]


def _holds_narrow(jaxpr: Any) -> bool:
  opened, _ = _open(jaxpr)
  variables = [*opened.invars, *opened.constvars]
  for equation in opened.eqns:
    variables += [*equation.invars, *equation.outvars]
    if equation.primitive.name == "reduce_precision":
      return True
  dtypes = (getattr(each.aval, "dtype", np.bool_) for each in variables)
  inside = (inner for each in opened.eqns for inner in _inner(each))
  return any(map(_is_narrow, dtypes)) or any(map(_holds_narrow, inside))


def rounds_in_jit(jaxpr: Any) -> bool:
  """Whether a jitted part casts, and no loop would be unrolled without jit."""
  opened, _ = _open(jaxpr)
  jitted = [each for each in opened.eqns if each.primitive.name in _JITS]
  narrow = any(_holds_narrow(x) for each in jitted for x in _inner(each))
  return narrow and not _holds_loop(opened)


def _holds_loop(jaxpr: Any) -> bool:
  equations = _open(jaxpr)[0].eqns
  inside = (inner for each in equations for inner in _inner(each))
  names = {each.primitive.name for each in equations}
  return bool(names & {"scan", "while"}) or any(map(_holds_loop, inside))


def _run(jaxpr: Any, arguments: Sequence[Any]) -> list[Any]:
  opened, consts = _open(jaxpr)
  known = dict(zip(opened.constvars, map(_wide, consts), strict=True))
  known.update(zip(opened.invars, arguments, strict=True))

  def look_up(atom: Any) -> Any:
    return _wide(atom.val) if hasattr(atom, "val") else known[atom]

  for equation in opened.eqns:
    outputs = _apply(equation, [look_up(atom) for atom in equation.invars])
    known.update(zip(equation.outvars, map(_wide, outputs), strict=True))
  return [look_up(atom) for atom in opened.outvars]


def _apply(equation: Any, operands: list[Any]) -> Sequence[Any]:
  """The outputs of an equation, for operands in float64."""
  primitive, params = equation.primitive, equation.params
  name = primitive.name
  if name == "reduce_precision":
    return operands
  if name == "convert_element_type":
    return [jnp.asarray(operands[0]).astype(_wide_type(params["new_dtype"]))]
  if name in _INLINED:
    return _run(_inner(equation)[0], operands)
  if name in _LOOPS:
    params = {key: _widened_within(value) for key, value in params.items()}
  elif name in _BY_BITS or _inner(equation):
    operands = [
      jnp.asarray(x).astype(atom.aval.dtype)
      for x, atom in zip(operands, equation.invars, strict=True)
    ]
  wanted = params.get("preferred_element_type")  # of sums of products
  if wanted is not None:
    params = params | {"preferred_element_type": _wide_type(wanted)}
  outputs = primitive.bind(*operands, **primitive.get_bind_params(params))
  return outputs if primitive.multiple_results else [outputs]


def _widened_within(parameter: Any) -> Any:
  if not _inner_of(parameter):
    return parameter
  if isinstance(parameter, (tuple, list)):
    return type(parameter)(map(widened, parameter))
  return widened(parameter)
