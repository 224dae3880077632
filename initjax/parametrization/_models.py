"""A model and its base, read side by side."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from initjax._paths import is_float, leaves_by_path
from initjax.graph import (
  Dataflow,
  Trace,
  as_function,
  dataflow,
  is_router,
  trace,
)
from initjax.parametrization._growth import (
  Pair,
  Use,
  check_inputs,
  pairs,
  uses,
)


class Models(NamedTuple):
  """The model and its base, read."""

  params: Any
  base_params: Any
  own: Trace
  base: Trace
  flow: Dataflow
  base_flow: Dataflow
  pairs: dict[str, Pair]
  uses: list[Use]


def read_models(
  fn: Any, params: Any, inputs: tuple[Any, ...], base: Sequence[Any]
) -> Models:
  """Traces both, and pairs their leaves and uses; raises where none match."""
  if not isinstance(base, Sequence) or len(base) < 2:
    raise ValueError(
      "base must be (fn, params, *inputs) of the same model at its base width; "
      f"got {base!r:.60}."
    )
  call = as_function(fn, params, inputs)
  other = as_function(base[0], base[1], tuple(base[2:]))
  check_inputs(call.inputs, other.inputs)
  own = trace(call.fn, call.params, *call.inputs)
  known = trace(other.fn, other.params, *other.inputs)
  paired = pairs(_floats(call.params), _floats(other.params))
  flows = dataflow(own.outputs), dataflow(known.outputs)
  found = uses(own, known, paired)
  _check_experts(found, flows[0])
  return Models(call.params, other.params, own, known, *flows, paired, found)


def _check_experts(found: Sequence[Use], flow: Dataflow) -> None:
  for use in found:
    node = flow.sites.get(use.op.place.site)
    if use.growth_out != 1 and node is not None and is_router(flow, node):
      raise ValueError(
        f"{use.path} weights a sum of {use.op.fan_out:g}, and of "
        f"{use.base.fan_out:g} in the base: the number of experts is not a "
        "width; give both models the same."
      )


def _floats(params: Any) -> dict[str, Any]:
  leaves = leaves_by_path(params).items()
  return {path: leaf for path, leaf in leaves if is_float(leaf)}
