"""`signal_graph`: from a model to its linear operations."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from initjax._executables import fresh_jaxpr
from initjax._paths import paths_of
from initjax._sharding import fetched
from initjax.graph._activations import source_of
from initjax.graph._biases import not_biases
from initjax.graph._dataflow import dataflow
from initjax.graph._dead_code import dead_sites
from initjax.graph._frameworks import as_function
from initjax.graph._graph import LinearOp, SignalGraph, Stream, terms_within
from initjax.graph._place import Place, Site
from initjax.graph._read import read
from initjax.graph._reader import Reader
from initjax.graph._slips import with_advice
from initjax.graph._statistics import (
  IsDataError,
  check_contracted,
  largest,
  may_be_statistic,
)
from initjax.graph._tables import Tables, late_tables, with_copies
from initjax.graph._values import Value

_TURNS = 3
"""Then inputs of the shape of data are data, too: there are too many."""


class _Found(NamedTuple):
  """What was read."""

  jaxpr: Any
  reader: Reader
  statistics: set[int]
  outputs: list[Value]


@with_advice
def signal_graph(
  fn: Callable[..., Any], params: Any, *inputs: Any
) -> SignalGraph:
  """Reads how `fn(params, *inputs)` uses its parameters.

  The graph has one `LinearOp` for each use of a parameter in a matrix product,
  a convolution or an embedding look-up, in order of execution, with its fans:

      fan_in   terms summed into one output element
      fan_out  output elements that one input element feeds

  and the activation that feeds it. Nothing is computed or allocated.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module;
      set flags with `initjax.functional(model, variables, train=False)`.
    params: any pytree; leaves may be `jax.ShapeDtypeStruct`s. Omit it for a
      module that holds its own parameters.
    *inputs: the other arguments of `fn`, which may be abstract too.

  Raises:
    TypeError: if `fn` is neither a function nor a module.

  >>> import jax, jax.numpy as jnp
  >>> def mlp(params, x):
  ...   return jax.nn.relu(x @ params["first"]) @ params["second"]
  >>> shape = jax.ShapeDtypeStruct
  >>> params = {"first": shape((3, 8), jnp.float32),
  ...           "second": shape((8, 2), jnp.float32)}
  >>> graph = signal_graph(mlp, params, shape((5, 3), jnp.float32))
  >>> [(op.path, op.fan_in, op.fan_out) for op in graph.ops]
  [('first', 3, 8), ('second', 8, 2)]
  >>> float(graph["second"].activation(jnp.float32(-1.0)))
  0.0
  """
  call = as_function(fn, params, inputs)
  return trace(call.fn, call.params, *call.inputs).graph


class Trace(NamedTuple):
  """A model's jaxpr, and where its operations are in it."""

  jaxpr: Any
  graph: SignalGraph
  out_shape: Any
  """pytree of the function's outputs"""
  entangled: frozenset[str]
  """parameters that reach an operation in another way than as its kernel"""
  outputs: tuple[Value, ...] = ()
  """what the function returns, and through it all that this is made of"""

  @property
  def ops(self) -> dict[Site, LinearOp]:
    """The operations of the graph by their sites, in the same order."""
    return {op.place.site: op for op in self.graph.ops}


def trace(fn: Callable[..., Any], params: Any, *inputs: Any) -> Trace:
  """Traces `fn` once and reads its jaxpr."""
  jaxpr, out_shape = fresh_jaxpr(fn, params, *inputs)
  paths = paths_of(params)
  is_zero = functools.partial(_is_zero, params, paths)
  zeros = functools.cache(is_zero)
  found = _read(jaxpr, paths, zeros, dead_sites(jaxpr))
  tables: dict[str, frozenset[int]] = {}
  for _ in range(_TURNS):
    more = late_tables(found.reader, dataflow(found.outputs))
    if more.keys() <= tables.keys():
      break
    tables |= more
    numbers = [i for i, path in enumerate(paths) if path in tables]
    copied = with_copies(jaxpr, numbers, params, *inputs)
    found = _read(copied, paths, zeros, dead_sites(copied), tables)
  graph, entangled = _graph(paths, found)
  if found.reader.dead and graph.unused:
    every = _read(found.jaxpr, paths, zeros, frozenset(), tables)
    graph = _completed(graph, _graph(paths, every)[0])
  return Trace(found.jaxpr, graph, out_shape, entangled, tuple(found.outputs))


def _completed(graph: SignalGraph, whole: SignalGraph) -> SignalGraph:
  """The graph, with what reaches no output of parameters that do not."""
  idle = {*graph.unused}
  found = [op for op in whole.ops if op.paths and idle.issuperset(op.paths)]
  missed = {p: n for p, n in whole.not_followed.items() if p in idle}
  return dataclasses.replace(
    graph,
    ops=tuple(sorted((*graph.ops, *found), key=lambda op: op.place.site)),
    elementwise=(
      *graph.elementwise,
      *(path for path in whole.elementwise if path in idle),
    ),
    unused=tuple(path for path in whole.unused if path in idle),
    not_followed=graph.not_followed | missed,
  )


def _is_zero(params: Any, paths: list[str], path: str) -> bool:
  """Whether a parameter's values are known, and all 0."""
  leaf = jax.tree.leaves(params)[paths.index(path)]
  abstract = isinstance(leaf, (jax.ShapeDtypeStruct, jax.core.Tracer))
  return not abstract and not fetched(leaf).any()


def _read(
  jaxpr: Any,
  paths: list[str],
  is_zero: Callable[[str], bool],
  dead: frozenset[Site],
  tables: Tables = MappingProxyType({}),
) -> _Found:
  """Reads until it is known which inputs are statistics: mostly at once."""
  avals = jaxpr.in_avals[len(paths) :]
  several = avals if len(avals) > 1 else ()
  statistics = {at for at, aval in enumerate(several) if may_be_statistic(aval)}
  for turn in itertools.count():
    reader = Reader(is_zero, dead, tables)
    values = _arguments(reader, jaxpr, paths, statistics)
    try:
      outputs = read(reader, jaxpr, values, Place())
      check_contracted(reader)
    except IsDataError as found:
      data = largest(reader.inputs_of(found.inputs), avals)
      shapes = {avals[at].shape for at in data} if turn >= _TURNS else set()
      statistics -= data
      statistics -= {at for at in statistics if avals[at].shape in shapes}
      continue
    if not statistics or _has_data(reader, statistics, avals):
      break
    statistics = set()  # statistics of what, if there are no data?
  return _Found(jaxpr, reader, statistics, outputs)


def _arguments(
  reader: Reader, jaxpr: Any, paths: list[str], statistics: set[int]
) -> list[Value]:
  """Parameters, and inputs, of which some are statistics."""
  avals = jaxpr.in_avals
  values = [
    reader.parameter(path, tuple(aval.shape))
    for path, aval in zip(paths, avals, strict=False)
  ]
  values += [
    reader.statistic(at) if at in statistics else reader.data("input")
    for at in range(len(avals) - len(paths))
  ]
  return values


def _has_data(reader: Reader, statistics: set[int], avals: Any) -> bool:
  """Whether numbers are left that are no statistics, or ids are looked up.

  Beside ids, what has several axes is more likely a signal than a statistic.
  """
  arrays = {
    at: sum(size > 1 for size in aval.shape)
    for at, aval in enumerate(avals)
    if aval.shape and jnp.issubdtype(aval.dtype, jnp.inexact)
  }
  if not arrays.keys() <= statistics:
    return True
  ids = (op for op in reader.sites.values() if op.feed.reason == "indices")
  return any(ids) and max(arrays.values(), default=0) < 2


def _graph(
  paths: list[str], found: _Found
) -> tuple[SignalGraph, frozenset[str]]:
  """The graph, and the parameters that are entangled."""
  _, reader, statistics, outputs = found
  for value in outputs:
    reader.use_as_data(value)
  reader.forget_kernels_looked_up()
  noted = [reader.sites[site] for site in sorted(reader.sites)]
  ops = tuple(op for op in noted if op.origin != "data")
  used = {path for op in ops for path in op.paths}
  returned = (value for value in outputs if value.kind != "data")
  used |= {path for value in returned for path in value.paths}
  missed = reader.met.not_followed | not_biases(reader, dataflow(outputs))
  beside = [path for path in paths if path not in used and path not in missed]
  graph = SignalGraph(
    ops=ops,
    products=tuple(op for op in noted if op.origin == "data"),
    elementwise=tuple(path for path in beside if path in reader.elementwise),
    unused=tuple(path for path in beside if path not in reader.elementwise),
    not_followed={path: missed[path] for path in paths if path in missed},
    opaque=tuple(reader.opaque),
    statistics=tuple(sorted(statistics)),
    output=_output_stream(reader, outputs, ops[-1].place.site) if ops else None,
  )
  return graph, reader.entangled


def _output_stream(
  reader: Reader, outputs: list[Value], last: Site
) -> Stream | None:
  """The terms of the first output that holds the operation at `last`."""
  for value in outputs:
    if value.node is not None:
      source, _ = source_of(value.node)
      stream = reader.streams.of(source)
      terms = terms_within(stream)
      if any((term.kind, term.site) == ("output", last) for term in terms):
        return stream
  return None
