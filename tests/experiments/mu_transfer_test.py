"""Best rates by size: the fit, the claims, the networks, and a small run."""

import jax
import numpy as np
import pytest

from experiments.mu_transfer import __main__ as mu_transfer
from experiments.mu_transfer import fit, networks
from experiments.mu_transfer.networks import Model

EXPERIMENT = mu_transfer.EXPERIMENT
SIZES, RATES = (64, 128, 256), tuple(2.0 ** np.arange(-10, -3))
X = np.log2(RATES)


def losses(best, noise=0.0, seeds=8):
  """[sizes, rates, seeds] of parabolas with these vertices."""
  random = np.random.default_rng(0)
  exact = (X - np.asarray(best)[:, None]) ** 2
  return exact[..., None] + noise * random.normal(size=(*exact.shape, seeds))


def test_the_best_rate_is_the_vertex_or_unknown_at_the_edge():
  loss = losses([-6.3, -7.9, -12.0])
  np.testing.assert_allclose(fit.optima(RATES, loss)[:2], [-6.3, -7.9])
  assert np.isnan(fit.optima(RATES, loss)[2])
  loss[0, -1] = np.nan  # a rate at which it diverged
  np.testing.assert_allclose(fit.optimum(RATES, loss[0].mean(-1)), -6.3)


def test_a_slope_and_its_interval_are_those_of_the_optima():
  exact = fit.slope_and_interval(SIZES, RATES, losses([-6, -6.5, -7]), 0)
  np.testing.assert_allclose(exact, [-0.5] * 3)
  found = fit.slope_and_interval(SIZES, RATES, losses([-6, -6.5, -7], 0.3), 0)
  # a parabola through x - 1, x, x + 1 has its vertex at (y₋ - y₊)/(2·2), so
  # the error of a vertex is 0.3/√8·√2/4, and that of the slope 1/√2 of it
  error = 0.3 / 8**0.5 * 2**0.5 / 4 / 2**0.5
  assert abs(found.slope + 0.5) < 4 * error
  assert 1.96 * error < found.high - found.low < 2 * 1.96 * 1.5 * error


def sweep_of(standard, scaled):
  """A result of three sizes, from slopes with their intervals."""
  slopes = dict(zip(mu_transfer.WAYS, (standard, scaled), strict=True))
  return {"sweeps": {"MLP by width": {"sizes": SIZES, "slope": slopes}}}


@pytest.mark.parametrize(
  ("standard", "scaled", "expected"),
  [
    ((-0.7, -0.9, -0.5), (0.1, 0.05, 0.15), [True, True, True]),
    ((-0.4, -0.7, -0.1), (-0.3, -0.7, 0.1), [True, True, False]),
    ((-0.2, -0.25, -0.15), (0.2, 0.1, 0.3), [False, False, False]),
    ((-0.5, -0.6, -0.4), (0.4, -0.1, 0.8), [True, True, True]),
  ],
)
def test_claims_are_of_slopes_and_their_intervals(standard, scaled, expected):
  claims = mu_transfer.claims(sweep_of(standard, scaled))
  assert [claim.agrees for claim in claims] == expected


@pytest.mark.parametrize("family", ["mlp", "gpt"])
def test_widths_are_scaled_by_their_roles(family):
  base, wide = Model(family, 32, 2), Model(family, 128, 2)
  table = networks.plan(wide, base).table
  hidden = ["hidden/0"] if family == "mlp" else ["blocks/0/q", "blocks/1/down"]
  assert {table[path].adam for path in ("out", *hidden)} == {0.25}
  inputs = "in" if family == "mlp" else "tokens"
  assert table[inputs].adam == table[inputs].init == 1
  if family == "gpt":  # 1/d rather than 1/√d, for heads of 32 rather than 8
    assert table["blocks/0/q"].absorbed == pytest.approx(0.5)


def test_depth_is_that_of_residual_branches():
  table = networks.plan(Model("gpt", 32, 4), Model("gpt", 32, 1)).table
  assert table["blocks/3/down"].absorbed == pytest.approx(0.25)
  assert table["out"].absorbed == table["tokens"].absorbed == 1


SMALL = Model("gpt", 32, 2)


@pytest.fixture(scope="module")
def params():
  return networks.draw(0, SMALL)


def test_standard_kernels_have_the_variance_that_is_said(params):
  """Mean squares of N normal numbers vary by √(2/N); four times that."""
  kernel = params["blocks"][1]["down"]
  assert abs((kernel**2).mean() * 128 - 1) < 4 * (2 / kernel.size) ** 0.5
  assert not params["out"].any()
  assert (params["blocks"][0]["scale_1"] == 1).all()


def test_a_token_is_not_told_what_follows_it(params):
  out = np.random.default_rng(0).normal(size=params["out"].shape)
  logits = jax.jit(networks.apply(SMALL))
  ids = np.arange(12).reshape(2, 6)
  first = logits({**params, "out": out}, ids)
  ids[:, -1] = 99
  second = logits({**params, "out": out}, ids)
  np.testing.assert_allclose(first[:, :-1], second[:, :-1], rtol=1e-5)
  assert abs(first[:, -1] - second[:, -1]).max() > 0.1


def test_the_best_rate_falls_in_the_standard_parametrization(result):
  sweep = result["sweeps"]["MLP by width"]
  assert sweep["optimum"]["standard"][1] < sweep["optimum"]["μP"][1] - 0.5
  base = [sweep["loss"][way][0] for way in mu_transfer.WAYS]
  np.testing.assert_array_equal(*base)
  assert [t.row_count for t in mu_transfer.tables(result)] == [3, 3]
  mu_transfer.figure(result).canvas.draw()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"mlp_widths": (128, 64)}, "mlp_widths must increase"),
    ({"gpt_widths": (32, 34)}, r"gpt_widths \(34\) must be a multiple of 4"),
    ({"gpt_rates": 2}, "gpt_rates must be at least 3"),
    ({"mlp_seeds": 1}, "mlp_seeds must be at least 2"),
  ],
)
def test_options_are_checked(changes, message):
  with pytest.raises(ValueError, match=message):
    mu_transfer.Config(**changes)
