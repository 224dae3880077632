"""Whole-network recipes beside PyTorch, SciPy and closed forms."""

import functools
import warnings

import flax.linen as nn
import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from drawn_by_numpy import filled, normal
from flax import nnx

from initjax import recipes

KEY = jax.random.key(0)
zeros = lambda *shape: np.zeros(shape, np.float32)


class Mixed(nn.Module):
  @nn.compact
  def __call__(self, ids):
    x = nn.Embed(50, 64, name="Embed")(ids)
    x = nn.Dense(96, name="Dense")(nn.LayerNorm(name="Norm")(x))
    return nn.Conv(32, (3,), name="Conv")(x)


def linen_params():
  ids = np.zeros((2, 5), np.int32)
  return jax.eval_shape(Mixed().init, KEY, ids)["params"]


@pytest.mark.slow
def test_torch_defaults_have_the_distributions_of_torch():
  """Two samples of one law: Kolmogorov-Smirnov p-values are uniform; below
  1e-4 once in 1e4 seeds, and the seeds are fixed."""
  torch = pytest.importorskip("torch")
  torch.manual_seed(0)
  theirs = {
    "Dense": torch.nn.Linear(64, 96),
    "Conv": torch.nn.Conv1d(96, 32, 3),
    "Embed": torch.nn.Embedding(50, 64),
    "Norm": torch.nn.LayerNorm(64),
  }
  made = recipes.torch_defaults(KEY, linen_params()).params
  compared = 0
  for name, layer in theirs.items():
    names = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
    for ours, leaf in made[name].items():
      wanted = getattr(layer, names.get(ours, ours)).detach().numpy().ravel()
      leaf = np.asarray(leaf).ravel()
      assert leaf.size == wanted.size
      if name == "Norm":
        np.testing.assert_array_equal(leaf, wanted)
      else:
        assert scipy.stats.ks_2samp(leaf, wanted).pvalue > 1e-4
        compared += 1
  assert compared == 5


def test_torch_defaults_of_stacked_layers_and_nnx():
  """U(±1/√fan_in) of 4096 entries: the largest is within 1% of the bound,
  which a fan that counts the layers (√8 off) is not."""
  stacked = {"kernel": zeros(8, 64, 64), "bias": zeros(8, 64)}
  module = nnx.eval_shape(lambda: nnx.Linear(64, 64, rngs=nnx.Rngs(0)))
  for least, params, options in (
    (0.98, stacked, {"batch_axis": 0}), (0.9, nnx.state(module), {})
  ):  # fmt: skip
    made = recipes.torch_defaults(KEY, params, **options).params
    for leaf in map(np.asarray, jax.tree.leaves(made)):
      assert least / 8 < abs(leaf).max() <= 1 / 8


def test_identity_passes_signals_on_through_128_layers():
  x, kernels = normal(0, 4, 16), normal(1, 128, 16, 16, scale=1 / 4)
  layer = lambda x, kernel: (x @ kernel, None)
  forward = jax.jit(lambda kernels: jax.lax.scan(layer, x, kernels)[0])
  made = recipes.identity({"kernel": kernels}, batch_axis=0).params["kernel"]
  np.testing.assert_array_equal(forward(made), x)
  assert not np.allclose(forward(kernels), x, atol=0.5)


def test_identity_of_convolutions():
  model, x = nn.Conv(3, (3, 3)), normal(0, 1, 5, 5, 3)
  made = recipes.identity(filled(model.init, x)).params
  np.testing.assert_array_equal(jax.jit(model.apply)(made, x), x)


def test_zer_o_widens_by_hadamard():
  """In Algorithm 1, out > in: 2^(-(m-1)/2)·H_m, cut."""
  params = {"kernel": zeros(5, 12), "bias": 1 + zeros(12)}
  made = recipes.zero_initialization(params, biases="*bias").params
  wanted = scipy.linalg.hadamard(16)[:5, :12] * 2**-1.5
  np.testing.assert_allclose(made["kernel"], wanted, rtol=1e-6)
  assert not np.any(made["bias"])


standardized = jax.jit(recipes.standardized_kernel)


def test_standardized_kernels_have_mean_0_and_norm_gain():
  for shape in ((64, 32), (3, 3, 16, 8)):
    w = standardized(3 + normal(0, *shape), gain=2.0)
    rows = np.asarray(w, np.float64).reshape(-1, shape[-1])
    # sums of fan_in float32 terms of size 3: √fan_in·3·2^-24 each
    np.testing.assert_allclose(rows.sum(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose((rows**2).sum(axis=0), 4, rtol=1e-5)


def test_standardized_kernels_are_scale_invariant_and_safe_at_zero():
  kernel = normal(0, 64, 8)
  one, other = map(standardized, (kernel, 7 * kernel))
  np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
  norm = lambda kernel: (recipes.standardized_kernel(kernel) ** 2).sum()
  gradient = jax.jit(jax.grad(norm))(zeros(4, 4))
  assert np.all(np.isfinite(gradient))


def warned(apply, params):
  """What comes out, and the warnings."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    made = apply(params).params
  return made, [str(warning.message) for warning in caught]


TWICE = {
  "gpt2": functools.partial(
    recipes.gpt2, residual="out*", num_branches=16
  ),
  "fixup": functools.partial(
    recipes.fixup, branch="out*", last="last", classifier="head",
    num_branches=16, layers_per_branch=2,
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", TWICE)
def test_a_recipe_that_multiplies_warns_the_second_time(name):
  """The factor is 1/4; sizes of 4096 Gaussian numbers err by 1/√8192 = 1.1%,
  and a quarter of one is no accident."""
  kernels = ("in", "out", "out2", "last", "head")
  params = {name: normal(ord(name[-1]), 64, 64) for name in kernels}
  params["bias"] = zeros(2, 64)
  once, none = warned(TWICE[name], params)
  twice, (message,) = warned(TWICE[name], once)
  assert none == []
  assert "scales by 0.25" in message
  np.testing.assert_allclose(twice["out"], params["out"] / 16, rtol=1e-6)
  assert warned(TWICE[name], twice)[1] == []  # 1/16: nobody knows why
  other = once | {"out2": params["out2"]}  # not all of them
  assert warned(TWICE[name], other)[1] == []
  few = {name: leaf[:2, :2] for name, leaf in once.items()}
  assert warned(TWICE[name], few)[1] == []  # 4 numbers say nothing
  assert jax.eval_shape(lambda p: TWICE[name](p).params, once)  # nor tracers


def test_fixup_counts():
  """100 branches: m = 2 gives 1/10, m = 3 gives 100^(-1/4)."""
  params = {name: np.ones(3, np.float32) for name in ("a", "b", "head")}
  where = {"branch": "[ab]", "last": "b", "classifier": "head"}
  fixup = functools.partial(recipes.fixup, params, num_branches=100, **where)
  for layers, factor in ((2, 0.1), (3, 100**-0.25)):
    made = fixup(layers_per_branch=layers)
    np.testing.assert_allclose(made.params["a"], factor, rtol=1e-6)
    assert not np.any(made.params["b"])
    assert made.plan.rows[1].shadowed == (2,)
  with pytest.raises(ValueError, match="layers_per_branch"):
    fixup(layers_per_branch=1)
