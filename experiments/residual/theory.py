"""What theory says of the chains that are measured."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.residual.networks import Chain
from initjax import meanfield

CHAINS = {
  "plain, He": Chain(skip=0.0),
  "plain, Xavier": Chain(sigma_w2=1.0, skip=0.0),
  "residual, He": Chain(),
  "residual, pre-norm": Chain(normalized=True),
}


def layers(chain: Chain, count: int) -> list[meanfield.Layer]:
  """A chain of infinite width."""
  layer = meanfield.Layer(
    jax.nn.relu,
    chain.sigma_w2,
    skip=chain.skip,
    branch=chain.branch,
    normalization="layer" if chain.normalized else "none",
  )
  return [meanfield.Layer(), *[layer] * count]


def theory(blocks: int, depths: Sequence[int], width: int) -> dict[str, Any]:
  """log₂ of second moments: of the stream, and of the first gradient.

  Args:
    blocks: of the stream that is measured.
    depths: of the networks whose gradients are.
    width: of these; `finite_width` of plain networks depends on it.
  """
  forward, backward = {}, {}
  for name, chain in CHAINS.items():
    forward[name] = meanfield.trajectory(layers(chain, blocks)).forward
    # the gradient of a stack depends on how it begins, so one for each depth
    backward[name] = np.array(
      [
        meanfield.trajectory(layers(chain, depth - 1)).backward[0]
        for depth in depths
      ]
    )
  drift = [
    meanfield.relu_log_norm(depth - 1, width).mean / math.log(2)
    for depth in depths
  ]
  return {
    "signal": forward,
    "gradient": backward,
    "finite_width_drift": np.array(drift),
  }
