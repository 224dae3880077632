"""Random numbers in a stream: normal noise is a term, other kinds are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initjax
from initjax.graph import signal_graph

X = np.ones((4, 8), np.float32)
W = np.ones((8, 8), np.float32)
KEY = jax.random.key(0)


def reparameterized(p, x, key):
  mean, log_variance = x @ p["mean"], x @ p["log_variance"]
  noise = jax.random.normal(key, mean.shape)
  return (mean + noise * jnp.exp(0.5 * log_variance)) @ p["decoder"]


def test_the_latents_of_a_vae_have_their_size():
  """E[(m + ε·e^(l/2))²] = E[m²] + E[e^l], and E[e^l] = e^(E[l²]/2)."""
  W_of = lambda size: size * np.random.default_rng(0).normal(0, 1, (8, 8)) / 8
  params = {"mean": W_of(1.0), "log_variance": W_of(2.0), "decoder": W_of(8.0)}
  square = lambda name: (np.asarray(params[name], float) ** 2).mean()
  mean, log_variance = 8 * square("mean"), 8 * square("log_variance")
  latents = mean + np.exp(log_variance / 2)
  predicted = initjax.predict(reparameterized, params, X, KEY).forward[-1]
  wanted = np.log2(8 * square("decoder") * latents)
  np.testing.assert_allclose(predicted, wanted, rtol=1e-3)


NOISE = {
  "uniform": lambda shape: jax.random.uniform(KEY, shape),
  "truncated": lambda shape: jax.random.truncated_normal(KEY, -1, 1, shape),
  "power": lambda shape: jax.random.normal(KEY, shape) ** 2,
}


@pytest.mark.parametrize("name", NOISE)
def test_other_noise_is_not_taken_for_normal(name):
  noisy = lambda p, x: (x @ p[0] + NOISE[name](x.shape)) @ p[1]
  terms = signal_graph(noisy, [W, W], X).ops[-1].feed.stream
  assert "noise" not in {term.kind for term in terms or ()}


def test_the_same_noise_twice_is_no_sum_of_independent_terms():
  def noisy(p, x):
    noise = jax.random.normal(KEY, x.shape)
    return (x @ p[0] + noise + jnp.tanh(noise)) @ p[1]

  assert signal_graph(noisy, [W, W], X).ops[-1].feed.stream is None
