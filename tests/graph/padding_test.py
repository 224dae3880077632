"""Fans without padding against counting: a kernel of ones fed with ones.

The mean output is the mean number of terms that are data, and the mean gradient
of the sum of the outputs the mean number of outputs that an input feeds.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import KEY, normal

import initjax
from initjax.graph import signal_graph

SPECS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}
SPECS[3] = ("NDHWC", "DHWIO", "NDHWC")


def counted(model, kernel, x):
  """The means, by running the model on ones."""

  @jax.jit
  def run(*ones):
    terms, pull_back = jax.vjp(model, *ones)
    _, feeds = pull_back(jnp.ones_like(terms))
    return terms, feeds

  terms, feeds = map(
    np.asarray, run(np.ones(kernel.shape, "f"), np.ones(x.shape, "f"))
  )
  return terms.sum() / max(terms.size, 1), feeds.mean()


def convolution(seed):
  """A random convolution of one to three axes, and its operands' shapes."""
  draw = np.random.default_rng(seed)
  rank = int(draw.integers(1, 4))
  several = lambda low, high: draw.integers(low, high, rank).tolist()
  size, window, strides = several(3, 7), several(1, 5), several(1, 4)
  grouped = int(draw.integers(1, 3))
  options = {
    "window_strides": strides,
    "padding": list(zip(several(-1, 4), several(1, 4), strict=True)),
    "lhs_dilation": several(1, 4) if draw.integers(2) else [1] * rank,
    "rhs_dilation": several(1, 3),
    "feature_group_count": grouped,
    "dimension_numbers": SPECS[rank],
  }
  if draw.integers(3) == 0:
    options["padding"] = "SAME"
    options["lhs_dilation"] = [1] * rank
  kernel = jnp.zeros((*window, 2, 4))
  x = jnp.zeros((2, *size, 2 * grouped))
  return lambda w, x: jax.lax.conv_general_dilated(x, w, **options), kernel, x


@pytest.mark.parametrize("seed", range(6))
def test_any_window_stride_padding_and_dilation(seed):
  model, kernel, x = convolution(seed)
  (op,) = signal_graph(model, kernel, x).ops
  np.testing.assert_allclose(
    (op.valid_fan_in, op.valid_fan_out), counted(model, kernel, x), rtol=1e-6
  )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 100))
def test_many_more(seed):
  test_any_window_stride_padding_and_dilation(seed)


def window(padding, **options):
  numbers = {"dimension_numbers": SPECS[2]}
  return lambda w, x: jax.lax.conv_general_dilated(
    x, w, (1, 1), padding, **numbers, **options
  )


def padded(mode):
  pads = ((0, 0), (2, 0), (1, 1), (0, 0))
  return lambda w, x: window("VALID")(w, jnp.pad(x, pads, mode=mode))


def patches(w, x):
  found = jax.lax.conv_general_dilated_patches(
    x, (3, 3), (1, 1), "SAME", dimension_numbers=SPECS[2]
  )
  kernel = w.transpose(2, 0, 1, 3).reshape(-1, w.shape[-1])
  return found @ kernel


MODELS = {
  "padded with zeros": padded("constant"),
  "padded by itself": padded("wrap"),
  "patches": patches,
  "transposed": lambda w, x: jax.lax.conv_transpose(x, w, (2, 2), "SAME"),
  "transposed, without padding":
    lambda w, x: jax.lax.conv_transpose(x, w, (2, 2), "VALID"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_other_ways_to_pad(name):
  kernel, x = jnp.zeros((3, 3, 6, 4)), jnp.zeros((2, 5, 4, 6))
  (op,) = signal_graph(MODELS[name], kernel, x).ops
  wanted = counted(MODELS[name], kernel, x)
  np.testing.assert_allclose((op.valid_fan_in, op.valid_fan_out), wanted)


@pytest.mark.parametrize(
  ("side", "size", "features", "taps"),
  [
    (3, 8, 5, 5 * 9 * (2.75 / 3) ** 2),  # two of eight windows lack a third
    (7, 2, 64, 256),  # VGG's last map on images of 64 × 64: all four entries
    (1, 8, 5, 5),
    (3, 1, 5, 5),
  ],
)
def test_small_maps_by_hand(side, size, features, taps):
  shape = jax.ShapeDtypeStruct((side, side, features, 3), jnp.float32)
  x = jax.ShapeDtypeStruct((1, size, size, features), jnp.float32)
  (op,) = signal_graph(window("SAME"), shape, x).ops
  assert op.fan_in == side**2 * features
  np.testing.assert_allclose(op.valid_fan_in, taps)


def test_other_operations_have_no_padding():
  (op,) = signal_graph(lambda w, x: x @ w, normal(5, 3), normal(2, 5)).ops
  assert (
    (op.valid_fan_in, op.valid_fan_out) == (op.fan_in, op.fan_out) == (5, 3)
  )


class Small(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Conv(64, (7, 7), use_bias=False, name="whole")(x)
    x = nn.Conv(64, (3, 3), use_bias=False, name="window")(nn.relu(x))
    return nn.Dense(5, name="dense")(nn.relu(x).mean((1, 2)))


def small(fan):
  """He by a fan of the window of 7 × 7, on maps of 2 × 2."""
  module, x = Small(), normal(16, 2, 2, 64)
  params = jax.jit(module.init)(KEY, x)["params"]
  kernels = {
    "whole": normal(7, 7, 64, 64, variance=2 / fan),
    "window": normal(3, 3, 64, 64, variance=2 / 256, seed=2),
  }
  params |= {name: {"kernel": kernel} for name, kernel in kernels.items()}
  return module.apply, {"params": params}, x


@pytest.mark.parametrize("fan", [49 * 64, 4 * 64])
def test_a_verdict_on_fans_accepts_either(fan):
  kinds = [verdict.kind for verdict in initjax.diagnose(*small(fan)).verdicts]
  assert "wrong fan" not in kinds


def test_another_fan_is_wrong():
  verdicts = initjax.diagnose(*small(49)).verdicts
  assert "wrong fan" not in [v.kind for v in verdicts if v.path != "x"]


def test_theory_knows_of_borders():
  """Var(w) times the terms that are there, within what chance does.

  The last row has 5 outputs, nearly the same for all samples: that is chance.
  """
  model, params, x = small(256)
  found = initjax.predict(model, params, x, second_moment=float((x**2).mean()))
  rows = initjax.measure(model, params, x).to_records()
  assert np.isfinite(found.forward).all()
  for row, size in zip(rows[:2], found.forward, strict=False):
    assert abs(row["forward_log2_second_moment"] - size) < 0.3


@pytest.mark.parametrize("width", [80, 100])
def test_tables_show_both_where_they_differ(width):
  report = initjax.measure(*small(256))
  text = initjax.reports.to_text(report.to_records(), width=width)
  assert "3136→3136 (256→256)" in text
  assert "576→576 (256→256)" in text
  assert "64→5 " in text
  words = "fans in brackets leave out padding"
  assert words in text
  assert words in report._repr_html_()
  row, *_ = report.to_records()
  assert (row["valid_fan_in"], row["valid_fan_out"]) == (256, 256)
  plan = initjax.plan_init(*small(256)).to_text(width)
  assert "3136→3136 (256→256)" in plan
