"""What all verbs share: they refuse what is no key, and take NumPy's arrays."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax import initializers, model_init, recipes

KEY = jax.random.key(0)
X = np.ones((2, 4), np.float32)
CARRY = (X, X)
LSTM = nn.OptimizedLSTMCell(4)  # fuses its kernels, so each is a part
LAYER = {"kernel": np.eye(4), "bias": np.ones(4), "scale": np.ones(4)}
NUMPY = {"layer": LAYER, "table": {"embedding": np.eye(4)}}  # of float64
HEADS = dict.fromkeys(("query", "key", "value", "out"), LAYER)
SOME = recipes.rules([("*kernel", initializers.normal(1.0)), ("*bias", 0.5)])
KERNEL = {"encoder_layers": 2, "encoder_scaled": "*kernel"}
FIXUP = {"branch": "*kernel", "last": "*bias", "classifier": "table/*"}
COUNTS = {"num_branches": 4, "layers_per_branch": 2}


def lstm():
  shapes = jax.eval_shape(LSTM.init, KEY, CARRY, X)
  return jax.tree.map(lambda leaf: np.ones(leaf.shape), shapes)


WITH_KEYS = {
  "init_variables": lambda key: model_init.init_variables(key, LSTM, CARRY, X),
  "auto_init": lambda key: model_init.auto_init(
    key, LSTM.apply, lstm(), CARRY, X
  ),
  "rules": lambda key: SOME.apply(key, NUMPY),
  "torch_defaults": lambda key: recipes.torch_defaults(key, NUMPY).params,
  "deepnorm": lambda key: recipes.deepnorm(key, NUMPY, **KERNEL).params,
  "tfixup": lambda key: (
    recipes.tfixup(key, NUMPY, embeddings="table/*", **KERNEL).params
  ),
  "mimetic_attention": lambda key: (
    recipes.mimetic_attention(key, HEADS, num_heads=2).params
  ),
  "mimetic_kernels": lambda key: recipes.mimetic_kernels(key, 4, 2),
}
BAD_KEYS = {
  "number": 0,
  "None": None,
  "text": "k",
  "raw": np.zeros(3, np.uint32),
  "two": np.zeros((2, 2), np.uint32),
  "two typed": jax.eval_shape(lambda: jax.random.split(KEY)),
}


@pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS)
@pytest.mark.parametrize("verb", WITH_KEYS.values(), ids=WITH_KEYS)
def test_what_is_no_key_is_refused_with_one_sentence(verb, key):
  with pytest.raises(TypeError, match=r"^expected one key, such as .*; got "):
    verb(key)


def test_without_draws_no_key_is_needed():
  made = recipes.rules([("*bias", 0.5)]).apply(None, NUMPY)
  np.testing.assert_array_equal(made["layer"]["bias"], 0.5)
  fn = lambda p, x: x @ p
  assert model_init.plan_init(fn, LAYER["kernel"], X)


def test_data_that_is_closed_over_is_named():
  fn = lambda kernel: X @ kernel
  with pytest.raises(ValueError, match=r"its data, closed over.*fn\(params, x"):
    model_init.auto_init(KEY, fn, LAYER["kernel"])


WITHOUT_KEYS = {
  "zero_initialization": lambda: (
    recipes.zero_initialization(NUMPY, biases="*bias").params
  ),
  "identity": lambda: recipes.identity(NUMPY).params,
  "gpt2": lambda: (
    recipes.gpt2(NUMPY, residual="*kernel", num_branches=2).params
  ),
  "fixup": lambda: recipes.fixup(NUMPY, **COUNTS, **FIXUP).params,
  "rezero": lambda: (
    recipes.rezero(NUMPY, num_branches=1, alpha="*scale").params
  ),
  "standardized_kernel": lambda: recipes.standardized_kernel(LAYER["kernel"]),
  "calibrate": lambda: model_init.calibrate(LSTM.apply, lstm(), CARRY, X)[0],
}
SILENT = WITHOUT_KEYS | {
  name: lambda verb=verb: verb(KEY) for name, verb in WITH_KEYS.items()
}


@pytest.mark.parametrize("verb", SILENT.values(), ids=SILENT)
def test_float64_of_numpy_becomes_what_jax_makes_of_it(verb):
  """And no warning says so: all warnings are errors here."""
  dtypes = {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(verb))}
  assert dtypes == {jnp.dtype(jnp.float32)}
