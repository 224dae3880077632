"""Complex scalars and signals: an LRU, a Fourier layer, a state-space kernel.

Sizes are checked against NumPy in complex128: E|z|² of each operation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import KEY, normal

import initjax
from initjax.graph import signal_graph

WIDTH = 64
X = normal(32, WIDTH)
P = {name: normal(WIDTH, WIDTH, variance=1 / WIDTH, seed=seed)
     for seed, name in enumerate("abcd", 2)}  # fmt: skip
RADII = np.linspace(0.3, 0.9, WIDTH, dtype=np.float32)


def lru(p, x):
  """Orvieto et al. 2023, Eq. 1, with h a state at each of 32 times."""
  gates = p["radii"] * jnp.exp(1j * 3 * p["radii"])
  driven = x @ (p["a"] + 1j * p["b"])

  def step(h, u):
    h = gates * h + u
    return h, h

  _, states = jax.lax.scan(step, jnp.zeros(WIDTH, jnp.complex64), driven)
  return (states @ (p["c"] + 1j * p["d"])).real


def lru_by_numpy(p, x):
  gates = p["radii"] * np.exp(1j * 3 * p["radii"])
  driven = x @ (p["a"] + 1j * p["b"])
  ages = np.arange(len(x))[:, None, None] - np.arange(len(x))[:, None]
  powers = np.where(ages < 0, 0, gates ** np.maximum(ages, 0))
  states = np.einsum("tsn,sn->tn", powers, driven)
  return [driven, states @ (p["c"] + 1j * p["d"])]


def fourier(p, x):
  """FNet's mixing, then a kernel times a number."""
  return jax.nn.relu(jnp.fft.fft(x).real @ p["a"]) @ (2j * p["b"])


def fourier_by_numpy(p, x):
  first = np.fft.fft(x).real @ p["a"]
  return [first, np.maximum(first, 0) @ (2j * p["b"])]


def state_space(p, x):
  """A diagonal S4: a convolution by its transform, then channels are mixed."""
  poles = -0.5 + 1j * jnp.pi * jnp.arange(4)
  times = jnp.arange(32)[:, None]
  kernel = 2 * (jnp.exp(0.1 * poles * times) @ (p["c"][:4] * (1 + 0j))).real
  mixed = jnp.fft.irfft(
    jnp.fft.rfft(x, 64, axis=0) * jnp.fft.rfft(kernel, 64, axis=0), 64, axis=0
  )[:32]
  return jax.nn.gelu(mixed) @ p["d"]


def state_space_by_numpy(p, x):
  poles, times = -0.5 + 1j * np.pi * np.arange(4), np.arange(32)[:, None]
  kernel = 2 * (np.exp(0.1 * poles * times) @ p["c"][:4]).real
  pairs = zip(x.T, kernel.T, strict=True)
  whole = np.stack([np.append(np.convolve(*pair), 0) for pair in pairs], 1)
  mixed = whole[:32]
  cube = np.sqrt(2 / np.pi) * (mixed + 0.044715 * mixed**3)
  return [whole, mixed / 2 * (1 + np.tanh(cube)) @ p["d"]]


def gated(p, x):
  """Divided, negated, summed and multiplied by complex numbers."""
  real = x @ (-p["a"] / 2j)
  return (real + 3j * (x @ p["b"])) @ p["c"]


def gated_by_numpy(p, x):
  first, second = x @ (-p["a"] / 2j), x @ p["b"]
  return [first, second, (first + 3j * second) @ p["c"]]


MODELS = {
  model: (P | {"radii": RADII}, by_numpy)
  for model, by_numpy in (
    (lru, lru_by_numpy),
    (fourier, fourier_by_numpy),
    (state_space, state_space_by_numpy),
    (gated, gated_by_numpy),
  )
}


def wide(tree):
  return jax.tree.map(np.float64, tree)


def check(report, outputs):
  """Sums over WIDTH terms are rounded by less than WIDTH half ulps each."""
  sizes = [WIDTH if op.axes.free else len(X) for op in report.graph]
  assert [op.fan_in for op in report.graph] == sizes
  assert [op.fan_out for op in report.graph] == sizes
  measured = [float(row.log2_second_moment) for row in report.forward]
  expected = [np.log2(np.mean(abs(z) ** 2)) for z in outputs]
  np.testing.assert_allclose(measured, expected, atol=1e-4)


def test_sizes_and_fans_of_complex_models():
  every = {model: params for model, (params, _) in MODELS.items()}
  run = lambda x: [initjax.measure(f, p, x) for f, p in every.items()]
  reports = jax.jit(run)(X)
  for report, (params, by_numpy) in zip(reports, MODELS.values(), strict=True):
    check(report, by_numpy(wide(params), wide(X)))


@pytest.mark.slow
@pytest.mark.filterwarnings(
  "ignore:auto_init. The signal's second moment is .* fed by real",
  "ignore:no problems found in what was followed, but 1 .* radii",
)
@pytest.mark.parametrize("model", MODELS)
def test_every_verb_on_complex_models(model):
  params, by_numpy = MODELS[model]
  report = initjax.diagnose(model, params, X)
  check(report, by_numpy(wide(params), wide(X)))
  assert str(report)
  drawn = initjax.auto_init(KEY, model, params, X)
  _, info = initjax.calibrate(model, drawn, X)
  assert len(info.operations) == len(report.graph)
  initjax.testing.assert_finite_signal(model, params, X)


def test_theory_knows_moduli_and_says_where_phases_matter():
  """E|(-a/2i)ᵀx|² = 1/4; E|u + 3iv|² = 1/4 + 9; of gradients it is silent."""
  found = initjax.predict(gated, P, X)
  expected = [1 / 4, 1, 1 / 4 + 9]
  squares = [WIDTH * np.mean(wide(P[name]) ** 2) for name in "abc"]
  sizes = np.array(expected) * squares
  sizes[2] = squares[2] * (sizes[0] + 9 * sizes[1])
  np.testing.assert_allclose(found.forward, np.log2(sizes), atol=1e-5)
  assert np.isnan(found.backward[:-1]).all()

  def means(p, x):  # E|φ + iφ|² is no (2 E φ)² + ...
    return (jax.nn.relu(x @ p["a"]) + 1j * jax.nn.relu(x @ p["b"])) @ p["c"]

  found = initjax.predict(means, P, X)
  assert np.isnan(found.forward[2])
  assert signal_graph(fourier, P, X).ops[0].reason == "real"


def test_calibrated_complex_outputs_have_unit_modulus():
  model = lambda p, x: x @ (2j * p)
  shifted = X + 1
  square = lambda z: np.mean(abs(z) ** 2)
  for statistic, moment in {
    "second_moment": square,
    "variance": np.var,
  }.items():
    kernel, _ = initjax.calibrate(model, P["a"], shifted, statistic=statistic)
    output = wide(shifted) @ (2j * wide(np.asarray(kernel)))
    np.testing.assert_allclose(moment(output), 1, rtol=1e-4)
