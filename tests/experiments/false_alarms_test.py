"""The script that counts how often the assertions err, on tiny networks."""

import math

import jax
import numpy as np
import pytest

from experiments.costs import false_alarms, healthy_networks, sick_networks
from experiments.runtime.job import Job

SMALL = false_alarms.Config(
  draws=2, depth=6, widths=(16,), batch=4, verdict_draws=0
)


def test_every_network_is_counted_for_both_assertions():
  calls = []
  job = Job(advance=lambda label, total, **_: calls.append(total))
  result = false_alarms.run(SMALL, job)
  counts = result["counts"]
  names = list(false_alarms.nets(0.05))
  assert [row.net for row in counts] == [
    n for name in names for n in [name] * 2
  ]
  assert {row.assertion for row in counts} == {
    "assert_variance_stable",
    "assert_gradients_flow",
  }
  assert calls == [len(names)] * len(names)  # all draws in one part
  for row in counts:
    assert (row.width, row.draws) == (16, 2)
    assert 0 <= row.low <= row.failures / 2 <= row.high <= 1
  (table,) = false_alarms.tables(result)
  assert table.row_count == len(counts)


def test_what_is_sick_fails():
  """A std of three times the healthy one: 2^16 over 6 layers."""
  config = false_alarms.Config(2, 6, (16,), 4, excess=2.0)
  keys = jax.random.split(jax.random.key(0), 2)
  signal, _ = false_alarms.failures(config, "relu, std +200%", 16, keys)
  assert signal == 2


@pytest.mark.parametrize(
  ("failures", "draws", "low", "high"),
  [
    (0, 20, 0.0, 1 - 0.025 ** (1 / 20)),
    (20, 20, 0.025 ** (1 / 20), 1.0),
    (1, 2, 1 - math.sqrt(0.975), math.sqrt(0.975)),
  ],
)
def test_intervals_are_those_of_clopper_and_pearson(failures, draws, low, high):
  """No failure: (1 - p)^n = 2.5 %. One of two: 1 - (1 - p)² = 2.5 %."""
  found = false_alarms._interval(failures, draws)
  np.testing.assert_allclose(found, (low, high), rtol=1e-6)


def test_networks_have_the_variances_they_should():
  net = false_alarms.nets(0.05)["tanh"]
  params = false_alarms.draw(net, 30, 64, jax.random.key(0))
  size = float((params["kernels"] ** 2).mean()) * 64
  error = math.sqrt(2 / params["kernels"].size)  # of a mean square, relative
  assert abs(size / net.sigma_w2 - 1) < 4 * error
  square = float((params["biases"] ** 2).mean())
  assert abs(square / 0.05 - 1) < 4 * math.sqrt(2 / params["biases"].size)
  large = false_alarms.nets(0.05)["relu, std +5%"]
  assert large.sigma_w2 == pytest.approx(2 * 1.05**2)


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"draws": -1}, "draws must be at least 0"),
    ({"verdict_draws": -1}, "verdict_draws must be at least 0"),
    ({"depth": 4}, "depth must be at least 5"),
    ({"batch": 0}, "batch must be at least 1"),
    ({"widths": ()}, "widths must not be empty"),
    ({"widths": (1,)}, "widths must be at least 2"),
    ({"false_alarm": 0.0}, "false_alarm must be in"),
    ({"false_alarm": 1.0}, "false_alarm must be in"),
    ({"excess": -1.0}, "excess above -1"),
  ],
)
def test_a_config_that_makes_no_sense_is_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    false_alarms.Config(**wrong)


@pytest.mark.slow
def test_verdicts_on_every_draw_are_counted(monkeypatch):
  """One healthy and one sick kind, 8 draws and 2, of one shape."""
  shapes, x = [(16, 16)] * 6, healthy_networks.gaussians(8, 16)
  init = healthy_networks.list_of(shapes)
  worse = lambda key: [10 * k if i == 3 else k for i, k in enumerate(init(key))]
  network, plain = healthy_networks.Network, healthy_networks.plain
  one = {"six layers": network(plain, init, (x,))}
  other = {"layer × 10": network(plain, worse, (x,), ("odd layer",))}
  monkeypatch.setattr(false_alarms, "healthy_networks", lambda: one)
  monkeypatch.setattr(false_alarms, "sick_networks", lambda: other)
  result = false_alarms.run(false_alarms.Config(verdict_draws=8), Job())
  healthy, sick = result["rates"]
  assert (sick.found, sick.draws, sick.is_sick) == (2, 2, True)
  assert "odd layer 2" in sick.kinds
  assert healthy.found <= 1
  assert (healthy.draws, healthy.is_sick) == (8, False)
  assert [rate.unjudged for rate in result["rates"]] == [0, 0]
  (table,) = false_alarms.tables(result)
  assert table.row_count == 2


@pytest.mark.slow
def test_as_many_kinds_are_drawn_as_are_promised():
  assert len(healthy_networks.healthy_networks()) == 14
  assert len(sick_networks.sick_networks()) == 16
