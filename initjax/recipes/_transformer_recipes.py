"""Recipes for deep transformers: bounded updates, bounded residual streams."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from initjax._checks import check_integer
from initjax._paths import Where
from initjax.initializers import normal, xavier_normal, xavier_uniform
from initjax.recipes._recipe import Recipe, by_rules, scaled
from initjax.recipes._scaled_before import scaled_before
from initjax.typing import DType, Initializer, OutSharding


class DeepNormConstants(NamedTuple):
  """α of the skip path and β of the kernels; None without such layers."""

  encoder_alpha: float | None
  encoder_beta: float | None
  decoder_alpha: float | None
  decoder_beta: float | None


def deepnorm_constants(
  *, encoder_layers: int = 0, decoder_layers: int = 0
) -> DeepNormConstants:
  """α and β of DeepNorm, for N encoder and M decoder layers.

      encoder only       α = (2N)^(1/4)            β = (8N)^(-1/4)
      decoder only       α = (2M)^(1/4)            β = (8M)^(-1/4)
      both, encoder      α = 0.81·(N⁴M)^(1/16)     β = 0.87·(N⁴M)^(-1/16)
      both, decoder      α = (3M)^(1/4)            β = (12M)^(-1/4)

  Args:
    encoder_layers: N >= 0.
    decoder_layers: M >= 0.

  Raises:
    ValueError: if there are no layers at all.

  >>> deepnorm_constants(encoder_layers=8)[:2]
  (2.0, 0.3535533905932738)

  Reference: Wang et al. 2022 (DeepNet), Figure 2.
  """
  _check_layers(encoder_layers, decoder_layers)
  n, m = encoder_layers, decoder_layers
  if n and m:
    mixed = (n**4 * m) ** (1 / 16)
    return DeepNormConstants(
      0.81 * mixed, 0.87 / mixed, (3 * m) ** 0.25, (12 * m) ** -0.25
    )
  alone = ((2 * (n or m)) ** 0.25, (8 * (n or m)) ** -0.25)
  return DeepNormConstants(
    *(alone if n else (None, None)), *(alone if m else (None, None))
  )


def deepnorm(
  key: jax.Array,
  params: Any,
  *,
  encoder_layers: int = 0,
  decoder_layers: int = 0,
  encoder_scaled: Where | None = None,
  decoder_scaled: Where | None = None,
  unscaled: Where | None = None,
  kernel_init: Initializer | None = None,
) -> Recipe:
  """DeepNorm: LN(α·x + F(x)), and β on value, output and feed-forward.

  An update then changes the output by a bounded amount, whatever the depth; α
  and β are those of `deepnorm_constants`.

  Args:
    key: a key; each leaf gets its own by its path.
    params: any parameters; kernels may be abstract.
    encoder_layers: N.
    decoder_layers: M.
    encoder_scaled: value, output and feed-forward kernels of the encoder.
    decoder_scaled: the same for the decoder, including cross-attention.
    unscaled: query and key kernels, and others to draw with gain 1.
    kernel_init: draws all kernels, with Xavier normal by default; give one with
      the right axes for `[in, head, dim]` or stacked kernels.

  Raises:
    ValueError: if there are no layers, a pattern matches nothing, or the
      kernels of an encoder or decoder were not named.

  >>> import jax.numpy as jnp
  >>> params = {"value": jnp.ones((8, 8)), "query": jnp.ones((8, 8))}
  >>> made = deepnorm(jax.random.key(0), params, encoder_layers=8,
  ...                  encoder_scaled="value", unscaled="query")
  >>> made.multipliers
  {'encoder_alpha': 2.0}

  Reference: Wang et al. 2022 (DeepNet), Figure 2 and §4.
  """
  constants = deepnorm_constants(
    encoder_layers=encoder_layers, decoder_layers=decoder_layers
  )
  _check_named(encoder_layers, "encoder", encoder_scaled)
  _check_named(decoder_layers, "decoder", decoder_scaled)
  init = xavier_normal() if kernel_init is None else kernel_init
  alphas = {
    "encoder_alpha": constants.encoder_alpha,
    "decoder_alpha": constants.decoder_alpha,
  }
  return by_rules(
    key,
    params,
    [
      (encoder_scaled, scaled(init, constants.encoder_beta or 1.0)),
      (decoder_scaled, scaled(init, constants.decoder_beta or 1.0)),
      (unscaled, init),
    ],
    multipliers={name: a for name, a in alphas.items() if a is not None},
  )


def tfixup(
  key: jax.Array,
  params: Any,
  *,
  encoder_layers: int = 0,
  decoder_layers: int = 0,
  encoder_scaled: Where | None = None,
  decoder_scaled: Where | None = None,
  unscaled: Where | None = None,
  embeddings: Where | None = None,
  kernel_init: Initializer | None = None,
) -> Recipe:
  """T-Fixup: transformers without LayerNorm and without warm-up.

      kernels             Xavier
      decoder_scaled      × (9M)^(-1/4)
      encoder_scaled      × 0.67·N^(-1/4)
      embeddings          standard deviation d^(-1/2), × (9M)^(-1/4)

  for N encoder and M decoder layers (N = M in the paper). Without a decoder,
  embeddings are scaled like the encoder.

  Args:
    key: a key; each leaf gets its own by its path.
    params: any parameters; those drawn may be abstract.
    encoder_layers: N.
    decoder_layers: M.
    encoder_scaled: value, output and feed-forward kernels of the encoder.
    decoder_scaled: the same for the decoder, including cross-attention.
    unscaled: query and key kernels, and others to draw with gain 1.
    embeddings: tables `[tokens, d]` of encoder and decoder.
    kernel_init: draws all kernels, with Xavier uniform by default; give one
      with the right axes for `[in, head, dim]` or stacked kernels.

  Raises:
    ValueError: if there are no layers, a pattern matches nothing, or the
      kernels of an encoder or decoder were not named.

  >>> import jax.numpy as jnp
  >>> params = {"embedding": jnp.ones((99, 64)), "value": jnp.ones((64, 64))}
  >>> made = tfixup(jax.random.key(0), params, decoder_layers=9,
  ...                decoder_scaled="value", embeddings="embedding")
  >>> round(float(made.params["embedding"].std() * 8 * 3), 1)
  1.0

  Reference: Huang et al. 2020, §3.2.
  """
  _check_layers(encoder_layers, decoder_layers)
  _check_named(encoder_layers, "encoder", encoder_scaled)
  _check_named(decoder_layers, "decoder", decoder_scaled)
  init = xavier_uniform() if kernel_init is None else kernel_init
  encoder = 0.67 * max(encoder_layers, 1) ** -0.25
  decoder = (9 * max(decoder_layers, 1)) ** -0.25
  return by_rules(
    key,
    params,
    [
      (embeddings, _embedding(decoder if decoder_layers else encoder)),
      (encoder_scaled, scaled(init, encoder)),
      (decoder_scaled, scaled(init, decoder)),
      (unscaled, init),
    ],
  )


def _embedding(factor: float) -> Initializer:
  """N(0, factor²/d) for a table [tokens, d]."""

  def draw(
    key: jax.Array,
    shape: Sequence[int],
    dtype: DType = None,
    out_sharding: OutSharding = None,
  ) -> jax.Array:
    init = normal(factor / math.sqrt(shape[-1]))
    return init(key, shape, dtype, out_sharding)

  return draw


def gpt2(params: Any, *, residual: Where, num_branches: int) -> Recipe:
  """GPT-2: scales the projections back to the residual stream by 1/√N.

  Together, the N branches of the network then add to the stream what one branch
  would add without the factor, so the stream stays bounded whatever N is.

  Args:
    params: concrete parameters, such as N(0, 0.02²) for all kernels.
    residual: the last kernel of each branch.
    num_branches: N >= 1; two for each block of a transformer.

  Raises:
    ValueError: if N < 1 or the pattern matches nothing.

  Warns:
    UserWarning: if the projections look as if they had already been scaled.

  >>> import jax.numpy as jnp
  >>> params = {"proj": jnp.ones(2), "fc": jnp.ones(2)}
  >>> gpt2(params, residual="proj", num_branches=4).params["proj"]
  Array([0.5, 0.5], dtype=float32)

  Reference: Radford et al. 2019, §2.3.
  """
  check_integer("num_branches", num_branches, low=1)
  factor = 1 / math.sqrt(num_branches)
  usual = scaled_before(params, residual, factor, fan=False)
  if usual is not None:
    warnings.warn(
      f"gpt2 scales by {factor:.4g} = 1/√{num_branches}, but all that "
      f"residual names is smaller by that factor than the other kernels "
      f"({usual:.4g}) already; if gpt2 or the model's own init has scaled it, "
      "do not do so twice.",
      stacklevel=2,
    )
  return by_rules(None, params, [(residual, factor)])


def _check_layers(encoder_layers: int, decoder_layers: int) -> None:
  check_integer("encoder_layers", encoder_layers, low=0)
  check_integer("decoder_layers", decoder_layers, low=0)
  if not encoder_layers + decoder_layers:
    raise ValueError(
      "a transformer has layers; got encoder_layers=0 and decoder_layers=0."
    )


def _check_named(layers: int, part: str, where: Where | None) -> None:
  """Layers without kernels, or kernels without layers, are a slip."""
  if bool(layers) != (where is not None):
    raise ValueError(
      f"{part}_layers={layers} and {part}_scaled={where!r} contradict each "
      "other; give both or neither."
    )
