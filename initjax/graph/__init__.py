"""Looking inside any JAX model through its jaxpr.

>>> import jax, jax.numpy as jnp
>>> graph = signal_graph(jnp.dot, jnp.ones((3, 8)), jnp.ones((8, 2)))
>>> graph.ops[0].fan_in
8
"""

from initjax.graph._feed_names import fed_by as fed_by
from initjax.graph._frameworks import functional
from initjax.graph._graph import Feed, LinearOp, Row, SignalGraph
from initjax.graph._graph import Scan as Scan
from initjax.graph._graph import Site as Site
from initjax.graph._graph import Stream as Stream
from initjax.graph._graph import Term as Term
from initjax.graph._graph import terms_within as terms_within
from initjax.graph._primitives import PARTS as PARTS
from initjax.graph._signal_graph import signal_graph

__all__ = [
  "Feed",
  "LinearOp",
  "Row",
  "SignalGraph",
  "functional",
  "signal_graph",
]
