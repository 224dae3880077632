"""One pass: every operation's output has the target, whatever the model."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from calibrated import check, statistics_of, tolerance

from initjax.schemes import calibrate

KEY = jax.random.key(0)
WIDTH = 16
X = jax.random.normal(jax.random.key(1), (32, WIDTH))


def normal(seed, *shape, scale=1.0):
  return scale * jax.random.normal(jax.random.key(seed), shape)


def stacked(params, x):
  """Layers as a scan."""
  layer = lambda h, w: (jax.nn.relu(h @ w), None)
  return jax.lax.scan(layer, x, params["kernel"])[0]


def unrolled(params, x):
  """The same layers written out."""
  for kernel in params:
    x = jax.nn.relu(x @ kernel)
  return x


def two_layers(params, x):
  h = jnp.tanh(x @ params["first"] + params["bias"])
  return h @ params["second"]


TWO = {
  "first": normal(2, WIDTH, 8),
  "bias": jnp.full(8, 0.3),
  "second": normal(3, 8, 4, scale=100.0),
}


# The law


@pytest.mark.parametrize("statistic", ["second_moment", "variance"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_a_hundred_layers(statistic, scale):
  """Uncalibrated the last second moment would be (8 scale²)^100.

  A variance is as exact relative to the second moment. Of that the mean takes
  χ²₁/16 where it is over 16 units whose kernels are independent: below 3/4, or
  χ²₁ > 12, which has probability 5e-4.
  """
  kernels = normal(4, 100, WIDTH, WIDTH, scale=scale)
  share = 1 if statistic == "second_moment" else 1 / 4
  rtol = tolerance(WIDTH, depth=100) / share
  _, info = check(
    stacked, {"kernel": kernels}, X, rtol=rtol, statistic=statistic
  )
  assert info.rows[0].factor.shape == (100,)
  assert not info.skipped


def test_a_hundred_layers_to_the_rounding_of_float64():
  with jax.enable_x64(True):
    x = jnp.asarray(np.asarray(X), jnp.float64)
    kernels = jax.random.normal(KEY, (100, WIDTH, WIDTH), jnp.float64)
    after, _ = calibrate(stacked, {"kernel": kernels}, x)
    h, moments = np.asarray(x), []
    for kernel in np.asarray(after["kernel"]):  # by NumPy, not by measure
      z = h @ kernel
      moments.append(np.mean(z**2))
      h = np.maximum(z, 0)
    rtol = tolerance(WIDTH, depth=100, dtype=jnp.float64)
    np.testing.assert_allclose(moments, 1, rtol=rtol)


def test_scanned_and_unrolled_layers_get_the_same_factors():
  kernels = normal(4, 20, WIDTH, WIDTH)
  scanned, _ = calibrate(stacked, {"kernel": kernels}, X)
  written, _ = calibrate(unrolled, tuple(kernels), X)
  np.testing.assert_allclose(
    scanned["kernel"], jnp.stack(written), rtol=tolerance(WIDTH, depth=20)
  )


@pytest.mark.parametrize("target", [1e-4, 0.5, 7.0])
def test_any_target(target):
  check(two_layers, TWO, X, target=target, rtol=tolerance(WIDTH, 2))


def test_a_signal_beyond_the_squares_of_float32():
  """Outputs of 1e25 and 1e-25: their squares are inf and 0 in float32."""
  for scale in (1e25, 1e-25):
    params = {**TWO, "first": TWO["first"] * scale}
    check(two_layers, params, X, rtol=tolerance(WIDTH, 2))


def test_calibrating_twice_changes_nothing():
  once, _ = calibrate(two_layers, TWO, X)
  twice, info = calibrate(two_layers, once, X)
  for before, after in zip(
    jax.tree.leaves(once), jax.tree.leaves(twice), strict=True
  ):
    np.testing.assert_allclose(before, after, rtol=tolerance(WIDTH, 2))
  np.testing.assert_allclose(
    [op.factor for op in info.operations], 1, rtol=tolerance(WIDTH, 2)
  )


def test_the_scale_of_the_parameters_does_not_matter():
  """calibrate(c · W) = calibrate(W): the result depends on directions."""
  other = {**TWO, "first": TWO["first"] * 37, "second": TWO["second"] / 5}
  one, _ = calibrate(two_layers, TWO, X)
  two, _ = calibrate(two_layers, other, X)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=tolerance(WIDTH, 2)),
    one,
    two,
  )


def test_what_is_no_kernel_keeps_its_values():
  after, _ = calibrate(two_layers, TWO, X)
  assert (after["bias"] == TWO["bias"]).all()


# One pass


def products_in(jaxpr):
  """Number of matrix products among the equations, each written once."""
  total = 0
  for equation in jaxpr.eqns:
    total += equation.primitive.name == "dot_general"
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      total += products_in(inner)
  return total


@pytest.mark.parametrize(("fn", "split"), [(stacked, False), (unrolled, True)])
def test_the_pass_holds_the_products_of_the_model_and_no_other(fn, split):
  kernels = normal(4, 10, WIDTH, WIDTH)
  params = tuple(kernels) if split else {"kernel": kernels}
  plain = jax.make_jaxpr(fn)(params, X)
  ours = jax.make_jaxpr(lambda p, x: calibrate(fn, p, x))(params, X)
  assert products_in(ours.jaxpr) == products_in(plain.jaxpr)


def test_a_hundred_layers_cost_at_most_two_plain_passes():
  """By XLA's count of floating-point operations, at width 64, batch 256."""
  kernels = tuple(jnp.zeros((100, 64, 64)))
  x = jnp.zeros((256, 64))

  def operations(program):
    return jax.jit(program).lower(kernels, x).cost_analysis()["flops"]

  ours = operations(lambda p, x: calibrate(unrolled, p, x))
  assert ours <= 2 * operations(unrolled)


# Under transformations


def test_inside_jit_and_outside_it_are_one():
  inside, info = jax.jit(lambda p, x: calibrate(two_layers, p, x))(TWO, X)
  outside, _ = calibrate(two_layers, TWO, X)
  for one, two in zip(
    jax.tree.leaves(inside), jax.tree.leaves(outside), strict=True
  ):
    np.testing.assert_allclose(one, two, rtol=tolerance(WIDTH, 2))
  assert "second_moment before" in str(info)


def test_vmap_over_seeds():
  """Each draw gets its own factors, as if it were alone."""
  draws = {"kernel": normal(5, 3, 4, WIDTH, WIDTH)}
  many, info = jax.vmap(lambda p: calibrate(stacked, p, X))(draws)
  for draw in range(3):
    alone, _ = calibrate(stacked, {"kernel": draws["kernel"][draw]}, X)
    np.testing.assert_allclose(
      many["kernel"][draw], alone["kernel"], rtol=tolerance(WIDTH, 4)
    )
  assert len(jax.tree.map(lambda leaf: leaf[0], info).operations) == 4
  with pytest.raises(ValueError, match="one calibration, got several"):
    _ = info.operations


def test_a_traced_calibration_prints():
  seen = []

  def run(params):
    seen.append(str(calibrate(two_layers, params, X)[1]))
    return params

  jax.jit(run)(TWO)
  assert seen == ["Calibration of 2 operations, being traced"]


def test_sharded_parameters_stay_sharded():
  """On meshes of 1, 2×4 and 8 devices: the same values, the same places."""
  spec = jax.sharding.PartitionSpec
  kernels = normal(4, 4, WIDTH, WIDTH)
  expected, _ = calibrate(stacked, {"kernel": kernels}, X)
  for shape in ((1, 1), (2, 4), (1, 8)):
    mesh = jax.make_mesh(
      shape, ("data", "model"), (jax.sharding.AxisType.Auto,) * 2
    )
    place = jax.sharding.NamedSharding(mesh, spec(None, None, "model"))
    sharded = {"kernel": jax.device_put(kernels, place)}
    x = jax.device_put(X, jax.sharding.NamedSharding(mesh, spec("data")))
    for run in (calibrate, jax.jit(calibrate, static_argnums=0)):
      after, _ = run(stacked, sharded, x)
      assert after["kernel"].sharding.is_equivalent_to(place, 3)
      np.testing.assert_allclose(
        after["kernel"], expected["kernel"], rtol=tolerance(WIDTH, 4)
      )


def test_bfloat16_parameters():
  """Entries are rounded once, to u = 2^-8.

  Rounding errors of a kernel's entries are independent and of either sign, at
  most u, so they move an output by at most u in root mean square over many
  outputs; the model's own rounding of its output adds u more. In all the second
  moment moves by 2·(u + u), after two layers twice that.
  """
  half = lambda tree: jax.tree.map(lambda leaf: leaf.astype("bfloat16"), tree)
  after, _ = check(two_layers, half(TWO), half(X), rtol=2 * 4 * 2**-8)
  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(after))
  before = half(TWO)["first"].astype(jnp.float32)
  ratio = after["first"].astype(jnp.float32) / before
  np.testing.assert_allclose(ratio, np.median(ratio), rtol=2**-7)


def test_dropout_keys_among_the_inputs():
  def dropping(params, x, key):
    kept = jax.random.bernoulli(key, 0.5, x.shape)
    return jnp.where(kept, x / 0.5, 0) @ params["first"]

  check(dropping, TWO, X, jax.random.key(7), rtol=tolerance(WIDTH))


# Errors


def test_errors_say_what_to_do():
  for target in (0, -1.0, jnp.nan):
    with pytest.raises(ValueError, match="target must be a finite number > 0"):
      calibrate(two_layers, TWO, X, target=target)
  with pytest.raises(ValueError, match="statistic must be one of"):
    calibrate(two_layers, TWO, X, statistic="std")
  with pytest.raises(ValueError, match="shared must be one of 'first'"):
    calibrate(two_layers, TWO, X, shared="last")
  shapes = jax.eval_shape(lambda: TWO)
  with pytest.raises(ValueError, match=r"needs values, got params\['bias'\]"):
    calibrate(two_layers, shapes, X)
  with pytest.raises(ValueError, match="a function that uses parameters"):
    calibrate(lambda params, x: x * params["bias"], TWO, X[:, :8])
  with pytest.raises(TypeError, match="wanted a function"):
    calibrate("model", TWO, X)


def test_what_was_there_before_is_reported():
  _, info = calibrate(two_layers, TWO, X)
  before = statistics_of(two_layers, TWO, X)
  first = info.operations[0]
  np.testing.assert_allclose(first.before, before[0], rtol=tolerance(WIDTH))
  np.testing.assert_allclose(
    first.factor, before[0] ** -0.5, rtol=tolerance(WIDTH)
  )
