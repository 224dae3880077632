"""Draws without matrices, against real ones and against exact laws."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.gains import gain
from initjax.meanfield import Layer, relu_log_norm, simulate, trajectory

AFTER = {"normalize_after": True}
MIXED = [
  Layer(width=12),
  Layer(jax.nn.relu, 2.0, 0.2, width=16),
  Layer(jnp.tanh, 1.5, 0.1, width=16, skip=0.8, branch=0.7),
  Layer(jax.nn.gelu, 2.0, width=16, skip=1.0, normalization="layer"),
  Layer(jax.nn.silu, 2.0, width=16, skip=0.5, gated=True, normalization="rms"),
  Layer(jax.nn.gelu, 1.5, 0.2, width=14, normalization="layer", **AFTER),
  Layer(jnp.tanh, 1.5, width=14, gated=True, normalization="rms", **AFTER),
  Layer(jnp.sin, 1.2, 0.3, width=9, normalization="batch"),
  Layer(jax.nn.softplus, 1.0, width=3, branch=-0.5),
]
INPUTS = 4


def _real_layer(layer, kernel, bias, h):
  """One layer with a matrix that is there."""
  phi = layer.activation or (lambda x: x)
  half = h.shape[1] // 2
  read = (lambda h: phi(h[:, :half]) * h[:, half:]) if layer.gated else phi
  norm = NORMS[layer.normalization]
  x = norm(read(h)) if layer.normalize_after else read(norm(h))
  branch = layer.branch * (x @ kernel + bias)
  return layer.skip * h + branch if layer.skip else branch


NORMS = {
  "none": lambda h: h,
  "layer": lambda h: jax.nn.standardize(h, axis=1, epsilon=0.0),
  "rms": lambda h: h / jnp.sqrt((h**2).mean(1, keepdims=True)),
  "batch": lambda h: jax.nn.standardize(h, axis=0, epsilon=0.0),
}


def _haar(key, n_in, n_out):
  side = max(n_in, n_out)
  q, r = jnp.linalg.qr(jax.random.normal(key, (side, side)))
  return (q * jnp.sign(jnp.diag(r)))[:n_in, :n_out] * math.sqrt(side)


def _gaussian(key, n_in, n_out):
  return jax.random.normal(key, (n_in, n_out))


def _real(law, data, cotangent):
  """[depth] forward, [depth] backward of one stack, by matrices and by VJP."""

  def sizes(key):
    units, kernels = data.shape[1], []
    for index, layer in enumerate(MIXED):
      own = jax.random.fold_in(key, index)
      n_in = units // 2 if layer.gated else units
      kernel = law(own, n_in, layer.width) * math.sqrt(layer.sigma_w2 / n_in)
      bias = jax.random.normal(jax.random.fold_in(own, 1), (layer.width,))
      kernels.append((kernel, bias * math.sqrt(layer.sigma_b2)))
      units = layer.width

    def run(taps):
      h, seen = data, []
      for layer, (kernel, bias), tap in zip(MIXED, kernels, taps, strict=True):
        h = _real_layer(layer, kernel, bias, h) + tap
        seen.append(jnp.log2((h**2).mean()))
      return h, jnp.stack(seen)

    taps = [jnp.zeros((INPUTS, layer.width)) for layer in MIXED]
    out, pull_back, forward = jax.vjp(run, taps, has_aux=True)
    noise = jax.random.normal(jax.random.fold_in(key, 99), out.shape)
    (gradients,) = pull_back(cotangent @ noise)
    backward = jnp.stack([jnp.log2((g**2).mean()) for g in gradients])
    return forward, backward - backward[-1]

  return jax.jit(jax.vmap(sizes))


@pytest.mark.parametrize(
  ("weights", "draws"),
  [
    ("gaussian", 500),
    pytest.param("gaussian", 60000, marks=pytest.mark.slow),
    pytest.param("orthogonal", 60000, marks=pytest.mark.slow),
  ],
)
def test_sizes_have_the_law_of_real_matrices(weights, draws):
  """Means, deviations and correlations along the depth, within 4.5 errors.

  Biases, skips, gates, normalizations before and after φ, widths that grow and
  shrink below the number of inputs, and inputs as well as gradients that
  correlate.
  """
  correlation, gamma = 0.3, 0.5
  found = simulate(
    jax.random.key(1), MIXED, draws, second_moment=1.5, batch=INPUTS,
    correlation=correlation, cotangent_correlation=gamma, weights=weights,
  )  # fmt: skip
  shared = np.eye(INPUTS) * (1 - correlation) + correlation
  frame = np.eye(12)[:INPUTS] * math.sqrt(12 * 1.5)  # any, for Gaussian weights
  data = np.linalg.cholesky(shared) @ frame
  ends = np.linalg.cholesky(np.eye(INPUTS) * (1 - gamma) + gamma)
  law = _gaussian if weights == "gaussian" else _haar
  keys = jax.random.split(jax.random.key(2), draws)
  real = _real(law, jnp.float32(data), jnp.float32(ends))(keys)
  for mine, theirs in zip(found, map(np.asarray, real), strict=True):
    _assert_same_law(mine, theirs)


def _assert_same_law(first, second):
  """Of [draws, k], moments up to the products of pairs, in standard errors."""
  centre = second.mean(axis=0)
  both = [x - centre for x in (first, second)]
  pairs = [np.einsum("di,dj->dij", x, x).reshape(len(x), -1) for x in both]
  for one, other in (both, pairs):
    error = np.sqrt((one.var(axis=0) + other.var(axis=0)) / len(one))
    off = abs(one.mean(axis=0) - other.mean(axis=0))
    assert np.all(off <= 4.5 * error + 1e-6)


@pytest.mark.parametrize(
  "weights", ["gaussian", pytest.param("orthogonal", marks=pytest.mark.slow)]
)
def test_relu_networks_follow_the_exact_law(weights):
  width, depth, draws = 24, 30, 3000
  he = Layer(jax.nn.relu, 2.0, width=width)
  stack = [Layer(width=width)] + depth * [he]
  found = simulate(jax.random.key(3), stack, draws, weights=weights)
  expected = relu_log_norm(depth, width, weights)
  nats = (found.forward[:, -1] - found.forward[:, 0]) * math.log(2)
  for values in (nats, found.backward[:, 0] * math.log(2)):
    error = expected.std / math.sqrt(draws)
    assert abs(values.mean() - expected.mean) < 4.5 * error
    assert abs(values.std() / expected.std - 1) < 4.5 * math.sqrt(1 / draws)


def test_orthogonal_linear_stacks_keep_every_size():
  stack = 20 * [Layer(width=8)]
  found = simulate(
    jax.random.key(0), stack, 5, batch=3, correlation=0.9, weights="orthogonal"
  )
  np.testing.assert_allclose(found.forward, 0, atol=1e-6)
  np.testing.assert_allclose(found.backward, 0, atol=1e-6)


@pytest.mark.slow
def test_inputs_that_are_equal_or_opposed_count_as_one():
  """A Gram matrix without full rank is no reason to divide by 0."""
  stack = [Layer(width=8)] + 4 * [Layer(jnp.tanh, 1.5, width=8)]
  alone = simulate(jax.random.key(0), stack, 4000)
  for correlation, batch in ((1.0, 3), (-1.0, 2)):
    found = simulate(
      jax.random.key(1), stack, 4000, batch=batch, correlation=correlation,
      cotangent_correlation=correlation,
    )  # fmt: skip
    for mine, theirs in zip(found, alone, strict=True):
      _assert_same_law(mine, theirs)


@pytest.mark.slow
def test_sizes_far_from_1_and_dead_networks():
  vanishing = [Layer(width=64)] + 900 * [Layer(jax.nn.relu, 1.0, width=64)]
  found = simulate(jax.random.key(0), vanishing, 20)
  theory = trajectory(vanishing)
  for mine, mean, drift in (
    (found.forward[:, -1], theory.forward[-1], theory.forward_drift[-1]),
    (found.backward[:, 0], theory.backward[0], theory.backward_drift[0]),
  ):
    assert abs(mine.mean() - mean - drift) < 15  # a std of 12 / sqrt(20)
  dead = [Layer(width=1)] + 60 * [Layer(jax.nn.relu, 2.0, width=1)]
  found = simulate(jax.random.key(0), dead, 10)
  assert np.all(np.isneginf(found.forward[:, -1]))
  assert np.all(np.isneginf(found.backward[:, 0]))


def test_draws_are_a_function_of_the_key():
  stack = [Layer(width=4), Layer(jnp.tanh, width=4)]
  keys = (jax.random.key(5), jax.random.PRNGKey(5), jax.random.key(6))
  first, legacy, other = (simulate(key, stack, 3).forward for key in keys)
  np.testing.assert_array_equal(first, legacy)
  assert not np.any(first[:, 1] == other[:, 1])


def test_draws_in_parts_are_all_there(monkeypatch):
  monkeypatch.setattr("initjax.meanfield._simulate._MOST", 64)
  stack = [Layer(width=4), Layer(jnp.tanh, 0.9, width=4)]
  found = simulate(jax.random.key(5), stack, 31)
  assert found.forward.shape == found.backward.shape == (31, 2)
  assert np.unique(found.forward[:, 1]).size == 31


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"draws": 0}, "draws must be an integer >= 1"),
    ({"weights": "uniform"}, "weights must be one of"),
    ({"layers": [Layer()]}, "must have widths to be simulated"),
    ({"layers": [Layer(width=2, skip=1.0)], "batch": 3}, "too few for"),
    ({"correlation": -0.9, "batch": 3}, "at least -0.5; got -0.9"),
  ],
)
def test_bad_input_is_refused(options, message):
  given = {"layers": [Layer(width=4)], "draws": 2} | options
  with pytest.raises(ValueError, match=message):
    simulate(jax.random.key(0), **given)


def _law_and_draws(phi, sigma_w2, width, depth, draws):
  stack = [Layer(width=width)] + (depth - 1) * [
    Layer(phi, sigma_w2, width=width)
  ]
  found = simulate(jax.random.key(0), stack, draws)
  law = trajectory(stack)
  return (
    (law.forward + law.forward_drift, law.forward_std, found.forward),
    (law.backward + law.backward_drift, law.backward_std, found.backward),
  )


@pytest.mark.parametrize(
  ("phi", "sigma_w2", "width", "depth", "known"),
  [
    pytest.param(jax.nn.relu, 2.0, 64, 40, (40, 40), marks=pytest.mark.slow),
    pytest.param(jnp.tanh, 1.5, 64, 40, (40, 40), marks=pytest.mark.slow),
    # the gain of GELU; at depth 30 the law of first order says -345 bits
    (jax.nn.gelu, 2.3519, 128, 30, (11, 1)),
    pytest.param(jax.nn.silu, 2.8091, 128, 8, (8, 7), marks=pytest.mark.slow),
    pytest.param(jnp.square, 1 / 3, 32, 8, (8, 4), marks=pytest.mark.slow),
    # z·g remembers itself: its square scatters more than that of a normal
    pytest.param(jax.nn.softplus, 1, 32, 30, (30, 13), marks=pytest.mark.slow),
    pytest.param(jax.nn.softplus, 1, 64, 30, (30, 30), marks=pytest.mark.slow),
    # so narrow that log(1 + x) is not x - x²/2, and that it is
    pytest.param(jax.nn.relu, 2.0, 16, 90, (50, 50), marks=pytest.mark.slow),
    pytest.param(jax.nn.relu, 2.0, 32, 300, (300, 300), marks=pytest.mark.slow),
  ],
)
def test_the_law_of_first_order_knows_where_it_holds(
  phi, sigma_w2, width, depth, known
):
  """There, means are right within 0.3 deviations and these within a quarter."""
  draws = 400
  both = _law_and_draws(phi, sigma_w2, width, depth, draws)
  for (mean, std, found), count in zip(both, known, strict=True):
    rows = np.isfinite(std)
    assert rows.sum() == count
    rows &= std > 0
    off = abs(found.mean(axis=0) - mean)[rows]
    assert np.all(off <= (0.3 + 4 / math.sqrt(draws)) * std[rows])
    ratio = found.std(axis=0)[rows] / std[rows]
    assert np.all(abs(np.log(ratio)) < 0.25 + 4 / math.sqrt(2 * draws))


@pytest.mark.slow
def test_gradients_of_inputs_that_collapse_lie_between_two_laws():
  """That of one input, and that of inputs which stay as far apart as theory."""
  stack = [Layer(width=16)] + 39 * [Layer(jax.nn.relu, 2.0, width=16)]
  one, four = trajectory(stack), trajectory(stack, batch=4)
  unknown = np.isnan(four.backward_drift)
  assert unknown.sum() == 25
  assert not np.isnan(one.backward_drift).any()
  drawn = simulate(jax.random.key(0), stack, 400, batch=4).backward
  off = (drawn - four.backward)[:, unknown]
  error = 4 * off.std(axis=0) / math.sqrt(400)
  assert np.all(off.mean(axis=0) < four.drift_apart[1][unknown] + error)
  assert np.all(off.mean(axis=0) > one.backward_drift[unknown] - error)


PHIS = (jax.nn.relu, jnp.tanh, jax.nn.gelu)
STREAMS = {
  "pre-norm": {"skip": 1.0, "normalization": "layer"},
  "pre-norm, rms": {"skip": 1.0, "normalization": "rms"},
  "residual": {"skip": 1.0, "branch": 0.5},
  "norm": {"normalization": "layer"},
  "rms": {"normalization": "rms"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("phi", PHIS)
def test_chance_where_units_keep_their_state(phi, name):
  """Means and deviations, within 4.5 errors and what the next order may add.

  That is (depth/n)² of a variance, and 2/n of a layer's.
  """
  draws, n, depth = 20_000, 64, 12
  layer = Layer(phi, gain(phi) ** 2, width=n, **STREAMS[name])
  stack = [Layer(width=n)] + depth * [layer]
  found, law = simulate(jax.random.key(4), stack, draws), trajectory(stack)
  for mine, mean, std in (
    (found.forward, law.forward + law.forward_drift, law.forward_std),
    (found.backward, law.backward + law.backward_drift, law.backward_std),
  ):
    for row in (0, depth // 2, depth):
      nats = std[row] * math.log(2)
      error = 4.5 * std[row] / math.sqrt(draws)
      assert abs(mine[:, row].mean() - mean[row]) <= error + 0.06 * nats**2
      ratio = mine[:, row].std() / std[row] if std[row] else 1.0
      assert abs(ratio - 1) <= 4.5 / math.sqrt(draws) + 2 / n + depth / n / 10


KINDS = [
  {"normalization": name, "normalize_after": after, "gated": gated}
  for gated in (False, True)
  for name, after in (("layer", False), ("layer", True), ("rms", True))
]


@pytest.mark.slow
def test_wide_stacks_are_those_of_infinite_width():
  """Normalization before and after ReLU, with and without a gate.

  A mean of logs over 100 draws errs by std/10, and a layer adds κ/(2n) at most,
  where κ is 1.5·3·3·3 for gates (E[u⁴] of both halves and of the gradient).
  """
  n, draws = 256, 100
  layer = Layer(jax.nn.relu, 1.5, 0.1, width=n)
  stack = [Layer(width=n), layer, layer._replace(gated=True)]
  stack += [layer._replace(**kind) for kind in KINDS]
  law, found = trajectory(stack), simulate(jax.random.key(5), stack, draws)
  beyond = np.arange(len(stack)) * 40.5 / (2 * n)
  for mine, theirs, off in (
    (found.forward, law.forward, beyond),
    (found.backward, law.backward, beyond[::-1]),
  ):
    error = 4 * mine.std(axis=0) / math.sqrt(draws)
    assert np.all(abs(mine.mean(axis=0) - theirs) <= error + off + 0.02)
