"""Reads the structure of any JAX model from its jaxpr.

>>> import jax, jax.numpy as jnp
>>> graph = signal_graph(jnp.dot, jnp.ones((3, 8)), jnp.ones((8, 2)))
>>> graph.ops[0].fan_in
8
"""

from initjax.graph._branches import Branch, branches
from initjax.graph._compat import (
  Atom,
  Aval,
  Equation,
  open_jaxpr,
  scan_operands,
  sub_jaxprs,
)
from initjax.graph._dataflow import Dataflow, dataflow
from initjax.graph._factors import entries_of, named_in
from initjax.graph._formula import fed_by
from initjax.graph._frameworks import (
  as_function,
  functional,
  is_model,
  is_unbound,
)
from initjax.graph._graph import (
  Feed,
  Image,
  LinearOp,
  Row,
  Scale,
  SignalGraph,
  Stream,
  Term,
  terms_within,
)
from initjax.graph._holders import Holder, Holders
from initjax.graph._interpret import (
  FORWARD,
  WITH_RULES,
  Slot,
  Visited,
  Visitor,
  bind,
  equations,
  equations_around,
  run,
)
from initjax.graph._mixing import window_matrix
from initjax.graph._mixture import Mixing
from initjax.graph._output_parts import output_parts
from initjax.graph._place import BY_DEVICE, Scan, Site
from initjax.graph._primitives import (
  BLOCKWISE,
  INLINED,
  KEYS,
  PARTS,
  PURE_ARRAYS,
  REMAT,
  RESHAPES,
)
from initjax.graph._routers import is_router
from initjax.graph._scores import Product, constant_of, factor_after, products
from initjax.graph._segments import Segment, Segments, cut
from initjax.graph._signal_graph import Trace, signal_graph, trace
from initjax.graph._single_uses import Use, sliced_once
from initjax.graph._slips import with_advice
from initjax.graph._view import View, memory_of, overlap

__all__ = [
  "Feed",
  "Image",
  "LinearOp",
  "Row",
  "SignalGraph",
  "Site",
  "Stream",
  "Term",
  "functional",
  "signal_graph",
]
