"""Why units are off and samples look alike, according to the graph."""

import math

import numpy as np

from initjax.diagnosis._causes import shape_of
from initjax.diagnosis._chain import sigma_w2
from initjax.diagnosis._fixes import fix
from initjax.measurement import Leaves, RowStatistics

_LOST = -60.0  # log₂ of a second moment: rounding soon makes zeros of it
_SMALL = 0.25  # variance × fan_in: a branch adds little of what it reads


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
      f"The signal there is as small as 2^{sizes.min() / 2:.0f}, so that it "
      "is lost in rounding: see the verdict on the signal's size.",
      fix("kernel_init=initjax.initializers.he_normal()", ""),
    )
  if biased:
    return (
      "Biases far below zero cause this, and so does a step with too large a "
      "learning rate.",
      fix(
        "bias_init=initjax.initializers.zeros",
        "or a smaller learning rate, or jax.nn.leaky_relu or jax.nn.elu",
      ),
    )
  return (
    "No bias is the cause: what all samples share in the inputs of these "
    "units is larger than what differs between them.",
    fix("", "use inputs of zero mean, normalization, or jax.nn.leaky_relu"),
  )


_SHARED = (
  "What all samples share (a learned token, positions, biases) is far larger "
  "there than what tells them apart"
)


def why_alike(found: RowStatistics, leaves: Leaves) -> tuple[str, str]:
  """Why samples look alike, and what mends it."""
  shape = shape_of(found.rows, in_time=False)
  if not (shape.has_norms or shape.has_sums):
    advice = (
      "residual branches, normalization, or fewer layers; for tanh-like "
      "activations larger weights, up to the edge of chaos"
    )
    cause = "Deep networks without normalization or residual branches do this."
    return cause, fix("", advice)
  usual = _usual_sigma_w2(found, leaves)
  if usual < _SMALL:
    return _small_kernels(usual)
  advice = (
    "use inputs of zero mean and unit variance, and smaller tokens, "
    "positions and biases"
  )
  return f"{_SHARED}.", fix("", advice)


def _small_kernels(usual: float) -> tuple[str, str]:
  return (
    f"{_SHARED}, since the kernels are small: half of them have a variance of "
    f"{usual:.2g}/fan_in or less, where 1/fan_in keeps a signal's size. So "
    "what is added to each sample from its own inputs is almost nothing beside "
    "what is there.",
    fix(
      "kernel_init=initjax.initializers.lecun_normal()",
      "so that a branch adds as much as it reads; ignore this if such a "
      "start is intended",
    ),
  )


def _usual_sigma_w2(found: RowStatistics, leaves: Leaves) -> float:
  """Variance × fan_in of the usual kernel; NaN if none is known."""
  known = [
    sigma_w2(row, leaves) for row in found.rows if row.op.kind != "embedding"
  ]
  finite = np.array(known)[np.isfinite(known)]
  return float(np.median(finite)) if finite.size else math.nan
