"""Looking inside any JAX model through its jaxpr.

>>> import jax, jax.numpy as jnp
>>> graph = signal_graph(jnp.dot, jnp.ones((3, 8)), jnp.ones((8, 2)))
>>> graph.ops[0].fan_in
8
"""

from initjax.graph._feed_names import fed_by
from initjax.graph._frameworks import as_function, functional
from initjax.graph._graph import (
  Feed,
  Image,
  LinearOp,
  Row,
  Scan,
  SignalGraph,
  Site,
  Stream,
  Term,
  terms_within,
)
from initjax.graph._primitives import PARTS
from initjax.graph._signal_graph import signal_graph

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
