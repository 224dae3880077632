"""Why units are off and samples look alike, according to the graph."""

import numpy as np

from initjax.diagnosis._causes import shape_of
from initjax.diagnosis._fixes import fix
from initjax.measurement import Leaves, RowStatistics

_LOST = -60.0  # log₂ of a second moment: rounding soon makes zeros of it


def why_dead(found: RowStatistics, leaves: Leaves, at: int) -> tuple[str, str]:
  """The cause of dead units before a row, and its fix."""
  row = found.rows[at]
  shifts = [leaves.get(t.path) for t in row.feed.stream or () if t.path]
  biased = any(np.any(np.asarray(shift) != 0) for shift in shifts)
  path = row.feed.source
  sources = [i for i in range(at) if found.rows[i].op.path == path]
  sizes = found.forward.log2_second_moment[sources]
  if (sizes < _LOST).any():
    return (
      f"The signal there is as small as 2^{sizes.min() / 2:.0f}, so that it is "
      "lost in rounding: see what is said of the signal's size.",
      fix("kernel_init=initjax.initializers.he_normal()", ""),
    )
  if biased:
    return (
      "Biases far below zero, or a step with too large a learning rate, cause "
      "this.",
      fix(
        "bias_init=initjax.initializers.zeros",
        "or a smaller learning rate, or jax.nn.leaky_relu or jax.nn.elu",
      ),
    )
  return (
    "No bias is the cause: samples share a part of what feeds these units that "
    "is larger than what differs between them.",
    fix("", "inputs of zero mean, normalization, or jax.nn.leaky_relu"),
  )


def why_alike(found: RowStatistics) -> tuple[str, str]:
  """Why samples look alike, and what mends it."""
  shape = shape_of(found.rows, in_time=False)
  if shape.has_norms or shape.has_sums:
    return (
      "What all samples share (biases, a learned token, positions) is far "
      "larger there than what operations of small kernels add of each.",
      fix(
        "kernel_init=initjax.initializers.lecun_normal()",
        "so that branches add as much as they are given; ignore this if the "
        "model trains from here on purpose",
      ),
    )
  return (
    "Deep networks without normalization or residual branches do this.",
    fix(
      "",
      "residual branches, normalization, or fewer layers; for tanh-like "
      "activations larger weights, up to the edge of chaos",
    ),
  )
