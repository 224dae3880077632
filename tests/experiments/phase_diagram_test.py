"""The phase diagram: theory of the plane, measurements, devices, files."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

from experiments.phase_diagram import __main__ as phase_diagram
from experiments.phase_diagram import fit, networks, theory
from experiments.phase_diagram.__main__ import EXPERIMENT
from experiments.phase_diagram.records import Point
from experiments.runtime import launch
from experiments.runtime.job import Job, device_mesh
from initjax import meanfield

TINY = phase_diagram.Config(
  resolution=6, points=(2, 1), depth=12, width=16, seeds=3, pairs=2,
  dataset="synthetic",
)  # fmt: skip


@pytest.mark.parametrize(
  ("activation", "sigma_w2", "sigma_b2"),
  [
    (jnp.tanh, (0.5, 2.5, 4.0), (0.0, 0.1, 0.5)),
    (jax.nn.selu, (0.7, 0.9, 1.1), (0.1, 0.2, 0.4)),
    (jax.nn.gelu, (0.5, 1.8, 3.0), (0.0, 0.3, 1.0)),
    (jax.nn.relu, (0.5, 2.0, 3.0), (0.0, 0.3, 1.0)),
  ],
)
def test_the_plane_is_what_fixed_point_says(activation, sigma_w2, sigma_b2):
  """Splines of degree 7 for q, 5 for c: errors below the 1e-4 promised."""
  w, b = np.array(sigma_w2), np.array(sigma_b2)
  plane = theory.plane(activation, w, b)
  for i, j in ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2)):
    try:
      point = meanfield.fixed_point(activation, w[j], b[i])
    except ValueError:
      assert np.isnan(plane.q[i, j])
      assert np.isnan(plane.xi_c[i, j])
      continue
    found = (plane.q, plane.c, plane.chi_1, np.exp(-1 / plane.xi_c))
    expected = (point.q, point.c, point.chi_1, math.exp(-1 / point.xi_c))
    np.testing.assert_allclose([x[i, j] for x in found], expected, atol=1e-4)


@pytest.mark.parametrize(("name", "sigma_b2"), [("tanh", 0.1), ("gelu", 0.6)])
def test_the_critical_line_goes_through_critical_points(name, sigma_b2):
  """Between neighbours that are 1.7 % apart in q, a chord errs by 1e-4."""
  activation = phase_diagram.ACTIVATIONS[name].activation
  line = theory.critical_line(activation)
  point = meanfield.critical_point(activation, sigma_b2)
  above = np.flatnonzero(line.sigma_b2 > sigma_b2)[0]
  pair = slice(above - 1, above + 1)
  w = np.interp(sigma_b2, line.sigma_b2[pair], line.sigma_w2[pair])
  np.testing.assert_allclose(w, point.sigma_w2, rtol=1e-4)
  assert line.stable[above] == point.stable


def test_relu_is_critical_at_a_single_point():
  line = theory.critical_line(jax.nn.relu)
  np.testing.assert_allclose(line.sigma_w2, 2, rtol=1e-12)
  np.testing.assert_array_equal(line.sigma_b2, 0)


def infinite_width(activation, point, start, depth):
  """1 - c_l from the correlation map itself."""
  c = [start]
  for _ in range(depth - 1):
    c.append(
      meanfield.correlation_map(
        activation, c[-1], point.sigma_w2, point.sigma_b2, q=point.q
      )
    )
  return 1 - np.array(c)


@pytest.mark.parametrize(
  ("activation", "sigma_w2", "sigma_b2"),
  [(jnp.tanh, 1.25, 0.05), (jnp.tanh, 3.25, 0.15), (jax.nn.relu, 1.75, 0.3)],
)
def test_the_fit_finds_the_depth_scale_of_the_map(
  activation, sigma_w2, sigma_b2
):
  """f'(c*) within 0.5 %: what fourth powers of |Δ| < 1/2 leave. An exponential
  alone, fitted to the same layers, is off by 2.5 % in the chaotic phase."""
  point = meanfield.fixed_point(activation, sigma_w2, sigma_b2)
  groups = [infinite_width(activation, point, c, 50) for c in (-0.6, 0.9)]
  distances = np.stack([np.stack(groups, axis=1)] * 2)
  found = fit.fit(distances, point.c, 10**4)
  slopes = np.exp(-1 / np.array([found.xi_c, point.xi_c]))
  np.testing.assert_allclose(*slopes, rtol=0.005)
  assert found.error == 0  # both networks are the same


@pytest.mark.parametrize(
  ("distances", "c", "note"),
  [
    (0.4 * np.exp(-np.arange(60) / 40), 1.0, "too slow"),
    (0.4 * np.exp(-np.arange(60) / 0.1), 1.0, "too fast"),
    (np.full(60, np.inf), 1.0, "overflow"),
  ],
)
def test_where_no_fit_is_meaningful_the_reason_is_told(distances, c, note):
  found = fit.fit(np.tile(distances[:, None], (4, 1, 2)), c, 256)
  assert found.note == note
  assert math.isnan(found.xi_c)


@pytest.fixture(scope="module")
def measured():
  """An ordered and a chaotic tanh, once on one device, once on eight."""
  config = dataclasses.replace(
    TINY, depth=30, width=128, seeds=13, pairs=8, dataset="digits"
  )
  points = []
  for sigma_w2, sigma_b2 in ((1.0, 0.1), (3.75, 0.15)):
    found = meanfield.fixed_point(jnp.tanh, sigma_w2, sigma_b2)
    points.append(
      Point(sigma_w2, sigma_b2, found.phase, found.q, found.c, found.xi_c)
    )
  return config, points, phase_diagram.measure(points, config, Job())


@pytest.mark.parametrize("index", [0, 1])
def test_tanh_networks_keep_to_theory(measured, index):
  """Within 4 standard errors, and 4/n of f'(c*) for what 1/n shifts it."""
  config, points, distances = measured
  point = points[index]
  found = fit.fit(distances[index], point.c, config.width)
  assert found.note == ""
  shift = point.xi_c**2 * 4 / config.width
  assert abs(found.xi_c - point.xi_c) < 4 * found.error + shift
  assert found.error < 0.25 * point.xi_c


def test_correlations_are_those_of_a_plain_network(measured):
  """1 - c of an unrolled numpy network on the same weights, in float64."""
  _, points, _ = measured
  x = np.random.default_rng(0).standard_normal((1, 1, 2, 5))
  x /= np.sqrt((x**2).mean(axis=-1, keepdims=True))
  point, width, key = points[1], 6, jax.random.key(3)
  nets = networks.Nets(
    key[None],
    *(jnp.array([v]) for v in (point.sigma_w2, point.sigma_b2, point.q)),
  )
  found = networks.distances(jnp.tanh, 3, width, nets, jnp.asarray(x))
  keys = jax.random.split(key, 3)
  kernel = np.asarray(jax.random.normal(keys[0], (5, width)), np.float64)
  h = x[0, 0] @ kernel * math.sqrt(point.q / 5)
  expected = []
  for layer in range(3):
    expected.append(1 - h[0] @ h[1] / np.prod(np.linalg.norm(h, axis=1)))
    if layer < 2:
      kernel_key, bias_key = jax.random.split(keys[layer + 1])
      kernel = np.asarray(jax.random.normal(kernel_key, (width, width)))
      bias = np.asarray(jax.random.normal(bias_key, (1, width)))
      h = np.tanh(h) @ kernel * math.sqrt(point.sigma_w2 / width)
      h += bias * math.sqrt(point.sigma_b2)
  # float32: each layer magnifies some 10 roundings by σ_w at most
  tolerance = 10 * np.finfo(np.float32).eps * point.sigma_w2
  np.testing.assert_allclose(found[0, :, 0], expected, atol=tolerance)


def test_one_device_and_eight_give_the_same(measured):
  """The number of networks, 26, suits neither the devices nor the parts.

  Rounding may differ where XLA compiles for other shapes; a chaotic network
  magnifies it by √χ₁ a layer, over 30 layers by less than 2^15.
  """
  config, points, on_eight = measured
  assert len(jax.devices()) == 8
  on_one = phase_diagram.measure(
    points, config, Job(device_mesh(jax.devices()[:1]))
  )
  np.testing.assert_allclose(on_one[0], on_eight[0], rtol=1e-3, atol=1e-9)
  eps = np.finfo(np.float32).eps
  np.testing.assert_allclose(on_one[1], on_eight[1], atol=2**15 * eps)


def test_pairs_are_different_inputs_alike_and_unlike():
  inputs = np.random.default_rng(0).standard_normal((20, 8))
  pairs = networks.pairs_of(inputs, 4)
  assert pairs.shape == (2, 4, 2, 8)
  for group in pairs.reshape(2, 8, 8):
    assert len({row.tobytes() for row in group}) == 8
  unlike, alike = (pairs[:, :, 0] * pairs[:, :, 1]).sum(axis=-1)
  assert unlike.max() < 0 < alike.min()


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"activation": "rleu"}, "activation must be among tanh, erf"),
    ({"depth": 3}, "depth must be at least 10; got 3"),
    ({"seeds": 1}, "seeds must be at least 2"),
    ({"pairs": 1000}, "pairs must be at most 128"),
    ({"points": (3,)}, "points must be two numbers, along"),
    ({"sigma_w2": (0.0, 1.0)}, "sigma_w2 must be two finite numbers, 0 < low"),
    ({"sigma_b2": (0.5, 0.1)}, r"sigma_b2 .* got \(0.5, 0.1\)"),
  ],
)
def test_a_wrong_config_says_what_is_wanted(wrong, message):
  with pytest.raises(ValueError, match=message):
    phase_diagram.Config(**wrong)


def test_relu_is_shown_with_points_that_have_no_fixed_point(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setenv("COLUMNS", "80")
  config = dataclasses.replace(TINY, activation="relu")
  result = phase_diagram.run(config, Job())
  for table in EXPERIMENT.tables(result):
    rich.console.Console(highlight=False).print(table)
  printed = capsys.readouterr().out
  assert "…" not in printed  # nothing is cut off at 80 columns
  assert "no fixed point" in printed
  directory = launch.save(EXPERIMENT, config, result, str(tmp_path))
  content = json.loads((directory / "phase_diagram.json").read_text())["result"]
  ordered, none = content["points"]
  assert (ordered["phase"], none["phase"]) == ("ordered", "none")
  assert np.shape(ordered["deviation"]) == (12, 2)
  assert none["note"] == "no fixed point"
  assert none["deviation"] is None
  assert np.shape(content["theory"]["xi_c"]) == (6, 6)
  assert content["theory"]["q"][1][-1] == "nan"


def test_where_all_signal_dies_nothing_is_measured():
  """relu without biases at σ_w² < 2, and at 2, where every q is fixed."""
  config = dataclasses.replace(TINY, activation="relu", sigma_w2=(1.0, 3.0))
  config = dataclasses.replace(config, points=(1, 1), sigma_b2=(0.0, 1e-300))
  (at_two,) = phase_diagram.predicted(config)
  assert (at_two.phase, at_two.xi_c) == ("critical", math.inf)
  config = dataclasses.replace(config, sigma_w2=(0.5, 1.0), activation="tanh")
  (dead,) = phase_diagram.predicted(config)
  assert dead.note == "signal dies"
