"""Kaiming: halves, products of fans, training, what is written."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.kaiming import __main__ as kaiming
from experiments.kaiming import networks, show
from experiments.kaiming.__main__ import EXPERIMENT
from initjax import meanfield


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_layer_keeps_what_the_slope_says(config, result, direction):
  """(1 + a²)/2, exactly in expectation forward; its part κ/n is the variance
  of one ratio. Backward signs and gradients depend, to order 1/n."""
  mean, _ = show.kept(result, direction)
  count = config.networks * (config.layers - 1)
  for a, ours in zip(config.slopes, mean, strict=True):
    phi = functools.partial(jax.nn.leaky_relu, negative_slope=a)
    part = meanfield.fluctuation(phi) / config.wide
    error = 5 * math.sqrt(part / count)
    error += part if direction == "backward" else 0
    assert ours / ((1 + a * a) / 2) == pytest.approx(1, abs=error)


@pytest.mark.parametrize("mode", kaiming.MODES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_products_of_fans(config, result, mode, direction):
  """Exact in expectation; E[q²] grows by 1 + 5/n a layer for one input, and
  less for several. Five standard errors."""
  widths = np.array(result["widths"], float)
  order = slice(None) if direction == "forward" else slice(None, None, -1)
  spread = np.cumprod(1 + 5 / widths[order])[order] - 1
  seen = result["fans"][mode][direction].mean(0)
  law = result["theory"]["fans"][mode][direction]
  error = 5 * np.sqrt(spread / config.networks)
  assert (abs(seen / law - 1) < error).all()


def test_average_fans_lose_by_layer_where_each_fan_loses_once():
  laws = kaiming.theory(kaiming.Config())["fans"]
  assert laws["fan_in"]["forward"][-1] == pytest.approx(1)
  assert laws["fan_out"]["forward"][-1] == pytest.approx(1 / 4)
  per_pair = 2 * 64 / 320 * 2 * 256 / 320
  assert laws["fan_avg"]["forward"][14] == pytest.approx(per_pair**7)


def test_he_converges_and_xavier_stalls_at_chance(result):
  inits = result["courses"]["mlp"]["30"]
  last = {name: course["loss"][:, -1] for name, course in inits.items()}
  # whatever a stalled network says of all images alike costs their entropy
  shares = result["classes"]
  entropy = -(shares * np.log(shares)).sum()
  assert (last["Xavier"] > entropy - 1e-3).all()
  assert last["He"].mean() < entropy - 0.1


def test_xavier_is_he_times_a_half_per_layer():
  """ReLU is homogeneous and both share their random numbers; 29 layers round
  by some √64·ε each."""
  draw = functools.partial(
    networks.draw, jax.random.key(0), kind="mlp", depth=30, width=64,
    image=(1, 8, 8, 1),
  )  # fmt: skip
  x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
  he, xavier = (networks.apply(draw(init=name), x) for name in ("He", "Xavier"))
  error = 29 * 8 * 1.2e-7 * float(abs(he).max())
  np.testing.assert_allclose(xavier * 2**14.5, he, atol=error)


def test_patches_are_the_circular_convolution():
  """Against lax on wrapped images; sums of 27 terms round by 27·ε at most."""
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], (2, 5, 4, 3))
  kernel = jax.random.normal(keys[1], (3, 3, 3, 6))
  wrapped = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="wrap")
  theirs = jax.lax.conv_general_dilated(
    wrapped, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  ours = networks._linear(x, kernel)
  error = 27 * 1.2e-7 * float(abs(x).max() * abs(kernel).max()) * 3
  np.testing.assert_allclose(ours, theirs, atol=error)


def test_a_convolutional_network_has_logits_for_each_image():
  params = networks.draw(
    jax.random.key(0), kind="conv", depth=4, width=6, init="He",
    image=(1, 8, 8, 1),
  )  # fmt: skip
  assert params.stack.kernels.shape == (2, 3, 3, 6, 6)
  logits = networks.apply(params, jnp.ones((3, 8, 8, 1)))
  assert logits.shape == (3, 10)


def test_claims_name_their_equations_and_all_is_drawn(result):
  sources = " ".join(claim.source for claim in EXPERIMENT.claims(result))
  assert "Eq. 10" in sources
  assert "Eq. 14" in sources
  EXPERIMENT.figure(result).canvas.draw()


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"steps": 25}, r"steps \(25\) must be a multiple of 10"),
    ({"kinds": ("rnn",)}, "kinds must be among mlp, conv"),
  ],
)
def test_a_wrong_config_says_what_is_wanted(wrong, message):
  with pytest.raises(ValueError, match=message):
    kaiming.Config(**wrong)
