"""`predict`: the sizes that theory alone expects in the rows of a report.

Walking the rows in the order of execution gives the second moment of each;
walking back along the same edges gives the gradient's.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from initjax._checks import check_number
from initjax.graph import (
  LinearOp,
  Scale,
  SignalGraph,
  Term,
  as_function,
  signal_graph,
  terms_within,
  with_advice,
)
from initjax.measurement import (
  Known,
  Leaves,
  kernel_variance,
  known_of,
  leaves_of,
  mean_square_at,
  shared_by_positions,
)
from initjax.propagation._gradients import gradients_of, mean_of
from initjax.propagation._signals import Fed, Signal
from initjax.propagation._walk import Walk


class Prediction(NamedTuple):
  """Predicted sizes for each row of a report, in order of execution.

  Rows are those of `report.to_records()`; NaN means "unknown".
  """

  forward: np.ndarray
  """[rows]: log₂ second moment of the operation's output, before its bias"""
  backward: np.ndarray
  """[rows]: log₂ second moment of an element of the gradient with respect to
  it, relative to that of the last row"""
  silent: tuple[str, ...] = ()
  """[rows]: why `forward` is unknown; "" where it is known"""
  forward_error: np.ndarray = np.zeros(0)
  """[rows]: bits by which neglected effects may change `forward`"""
  backward_error: np.ndarray = np.zeros(0)
  """[rows]: likewise for `backward`"""
  cosine: np.ndarray = np.zeros(0)
  """[rows]: between the outputs at two positions (tokens, pixels) of a sample;
  NaN where nothing depends on it"""
  entropy: np.ndarray = np.zeros(0)
  """[rows]: of the attention that feeds the row, in nats; NaN elsewhere"""
  notes: tuple[str, ...] = ()
  """what was assumed about parameters without values"""

  def __repr__(self) -> str:
    """Short: how much is known."""
    there, back = (np.isfinite(x).sum() for x in (self.forward, self.backward))
    said = f"signal known at {there}, gradient at {back}"
    return f"Prediction({len(self.forward)} rows: {said})"


@with_advice
def predict(
  fn: Callable[..., object],
  params: object,
  *inputs: object,
  second_moment: float = 1.0,
) -> Prediction:
  """Predicts a model's signal and gradient sizes at infinite width.

  With the weights as they are, σ_w² = mean square × fan_in, an operation fed by
  φ(h) gives

      E[z²] = σ_w²·E[φ(√q ζ)²],  q = E[h²],  ζ ~ N(0, 1)

  where h is a sum of independent terms: outputs of earlier operations, biases,
  the preceding stream (residual networks), products φ(h₁)·ψ(h₂) of branches
  with separate kernels (gated units), each times its factor; or that sum
  normalized over units (q = 1, less its mean if it is centred) or over samples
  (less their mean). A sum that is not Gaussian, such as relu(x + F(x)), is
  represented by randomly drawn units. The gradient runs back along the same
  edges, times Var(W)·fan_out·E[φ'²].

  Between positions of a sample (tokens, pixels) the mean covariance is tracked:
  through average and maximum pools; through attention whose scores have at most
  a variance of 4, where E[o²] = E[v·v'] + E[Σ a²]·(E[v²] - E[v·v']); and where
  zero padding makes outputs near the borders of a map smaller.

  Each number comes with an error that estimates what the theory neglects: at
  borders, between positions that differ under a mask, at first order in 1/width
  and, for batch statistics, whose gradient grows by m/(m - 2) for m effective
  samples (m <= 2.5: unknown), at second order in 1/m. Sizes that the theory
  cannot follow are unknown, and `silent` says why; so is the gradient of all
  that contributes to them, and everything else stays known. Unknown are large
  scores, activations of inputs or without Gaussian moments, maxima of signals
  that are not Gaussian, and kernels with nonzero mean or of several parameters.
  Not in the error: keys and values of a self-attention are made of the same T
  tokens of d features and so depend on each other. For small scores s, that
  multiplies the gradient of queries by 1 + T/d (0.57 bits measured at T = 16,
  d = 32); at Var s = 1 there, outputs are 0.26 bits larger than predicted, and
  the gradient of keys is up to 0.5 bits smaller.
  Inputs, their positions and their features are taken to be independent; biases
  and scales count with their root mean square (under a scan, over all repeats).

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: its parameters; omit them for a module that holds its own. If they
      are `jax.ShapeDtypeStruct`s, kernels are taken to have variance
      1/fan_in, scales to be 1 and biases 0, and `notes` says so.
    *inputs: its other arguments; shapes suffice.
    second_moment: the second moment of the inputs, > 0.

  Raises:
    TypeError: if `fn` is neither a function nor a module.
    ValueError: if `second_moment` is not a positive number.

  >>> import jax, jax.numpy as jnp
  >>> def mlp(kernels, x):
  ...   first, second = kernels
  ...   return jax.nn.relu(x @ first) @ second
  >>> he = jax.nn.initializers.he_normal()
  >>> key = jax.random.key(0)
  >>> kernels = he(key, (256, 256)), he(key, (256, 256))
  >>> predict(mlp, kernels, jnp.ones((1, 256))).forward.round(1)
  array([1., 1.])

  Reference: Schoenholz et al. 2017, Eqs. 3, 9; Yang and Schoenholz 2017; of
  attention Dong et al. 2021; Noci et al. 2022.
  """
  check_number("second_moment", second_moment, low=0, open_low=True)
  fn, params, inputs, _ = as_function(fn, params, inputs)
  leaves, graph = leaves_of(params), signal_graph(fn, params, *inputs)
  return predict_rows(graph, leaves, inputs, second_moment)


def predict_rows(
  graph: SignalGraph, leaves: Leaves, inputs: Any, second_moment: float
) -> Prediction:
  """`predict`, for parameters by path."""
  known = known_of(graph, leaves, inputs)
  walk = Walk(
    functools.cache(functools.partial(mean_square_at, known)),
    second_moment,
    assumes=False,
    pairs=any(map(_mixes, _terms(graph))),
    near_of=functools.cache(functools.partial(shared_by_positions, known)),
    lacks=functools.partial(_lacks, known),
    tape=[],
  )
  rows, feeds = [], []
  for _, op, repeat in graph.rows:
    variance = _variance(op, repeat, leaves)
    feeds.append(walk.fed(op, repeat))
    rows.append(walk.put(op, feeds[-1], variance))
  with np.errstate(divide="ignore", invalid="ignore"):
    backward, backward_error = _gradients(walk, rows, graph)
    sizes = np.array([row.size for row in rows])
    return Prediction(
      np.log2(sizes),
      np.log2(backward),
      tuple(map(_silent, rows, feeds)),
      np.array([row.error if row.size >= 0 else math.nan for row in rows]),
      backward_error,
      np.array([row.near for row in rows]) / sizes,
      np.array([fed.source.entropy for fed in feeds]),
      (_TAKEN,) if any(map(_is_abstract, leaves.values())) else (),
    )


_TAKEN = (
  "parameters without values: kernels are assumed to have variance 1/fan_in, "
  "rows that are looked up variance 1, scales to be 1 and biases 0"
)


def _is_abstract(leaf: Any) -> bool:
  return isinstance(leaf, jax.ShapeDtypeStruct)


def _lacks(known: Known, scale: Scale) -> bool:
  """Whether a parameter has no values, or one that it is computed of."""
  if isinstance(scale, str):
    return _is_abstract(known.get(scale))
  parts = [each for each in scale.operands if not isinstance(each, float)]
  return any(_lacks(known, each) for each in parts if scale.label != "input")


def _variance(op: LinearOp, repeat: tuple[int, ...], leaves: Leaves) -> float:
  """Of a kernel's entries, as they are or as they are taken to be."""
  if op.paths and all(_is_abstract(leaves.get(path)) for path in op.paths):
    return 1 / op.fan_in if op.origin == "parameter" else math.nan
  return kernel_variance(op, repeat, leaves)


def _silent(row: Signal, fed: Fed) -> str:
  """Why theory stops at a row."""
  if not math.isnan(row.size):
    return ""
  return fed.doubt or "the variance of its kernel is not known"


def _mixes(term: Term) -> bool:
  """Whether it matters what samples or positions share."""
  return term.mixing is not None or term.over == "samples"


def _terms(graph: SignalGraph) -> Iterator[Term]:
  """All that operations are fed, as far as it can be said."""
  for op in graph.ops:
    for feed in filter(None, (op.feed, op.later_feed)):
      yield from terms_within(feed.stream)
  yield from terms_within(graph.output)


def _gradients(
  walk: Walk, rows: Sequence[Signal], graph: SignalGraph
) -> tuple[np.ndarray, np.ndarray]:
  """E[δ²] of each row, 1 at the last, and its error in bits."""
  if not rows:
    return np.zeros(0), np.zeros(0)
  last = rows[-1]
  if graph.output is not None:  # streams reach the output beside the last row
    last = walk.total(graph.output, graph.ops[-1].place.site)
  followed = not graph.opaque and not graph.not_followed
  followed &= not any(np.dtype(op.dtype).kind == "c" for op in graph.ops)
  found = gradients_of(walk.tape or (), last) if followed else {}
  pairs = [mean_of(found, row) for row in rows]
  own, errors = np.array(pairs).T
  for at, (_, op, _) in enumerate(graph.rows):
    if op.feed.reason == "positions":
      # of a table of positions it adds up over samples, as they are
      own[at] = math.nan
  relative = own / pairs[-1][0]
  relative[-1] = 1.0
  errors[-1] = 0.0
  return relative, np.where(np.isnan(relative), math.nan, errors)
