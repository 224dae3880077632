"""One pass: every operation's output has the target, whatever the model."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from calibrated import check, run, tolerance
from drawn_by_numpy import normal
from small_models import compilations

from initjax.model_init import calibrate

WIDTH = 16
X = normal(1, 32, WIDTH)


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
  "bias": np.full(8, 0.3, np.float32),
  "second": normal(3, 8, 4, scale=100.0),
}
FOUR = {"kernel": normal(4, 4, WIDTH, WIDTH)}


def assert_close(one, other, rtol):
  close = functools.partial(np.testing.assert_allclose, rtol=rtol)
  jax.tree.map(close, *jax.device_get((one, other)))


# The law


@pytest.mark.parametrize("statistic", ["second_moment", "variance"])
def test_a_hundred_layers(statistic):
  """Uncalibrated the last second moment would be (8 scale²)^100.

  A variance is as exact relative to the second moment. Of that the mean takes
  χ²₁/16 where it is over 16 units whose kernels are independent: below 3/4, or
  χ²₁ > 12, which has probability 5e-4.
  """
  share = 1 if statistic == "second_moment" else 1 / 4
  rtol = tolerance(WIDTH, depth=100) / share
  for scale in (1e-3, 1.0, 30.0):
    params = {"kernel": normal(5, 100, WIDTH, WIDTH, scale=scale)}
    _, info = check(stacked, params, X, rtol=rtol, statistic=statistic)
    assert info.rows[0].factor.shape == (100,)


def test_a_hundred_layers_to_the_rounding_of_float64():
  with jax.enable_x64(True):
    kernels = normal(5, 100, WIDTH, WIDTH).astype(np.float64)
    h, moments = X.astype(np.float64), []
    after, _ = calibrate(stacked, {"kernel": kernels}, h)
  for kernel in np.asarray(after["kernel"]):  # by NumPy, not by measure
    z = h @ kernel
    moments.append(np.mean(z**2))
    h = np.maximum(z, 0)
  rtol = tolerance(WIDTH, depth=100, dtype=jnp.float64)
  np.testing.assert_allclose(moments, 1, rtol=rtol)


def test_scanned_and_unrolled_layers_get_the_same_factors():
  scanned, *_ = run(stacked, FOUR, X)
  written, *_ = run(unrolled, tuple(FOUR["kernel"]), X)
  assert_close(scanned["kernel"], np.stack(written), tolerance(WIDTH, 4))


def test_any_target_and_scale():
  """Also outputs of 1e25 and 1e-25: their squares are inf and 0 in float32."""
  rtol = tolerance(WIDTH, 2)
  for target in (1e-4, 0.5, 7.0):
    check(two_layers, TWO, X, target=target, rtol=rtol)
  for scale in (1e25, 1e-25):
    params = {**TWO, "first": TWO["first"] * np.float32(scale)}
    check(two_layers, params, X, rtol=rtol)


def test_what_was_there_before_is_reported():
  """And what is no kernel keeps its values."""
  after, info, _ = run(two_layers, TWO, X)
  np.testing.assert_array_equal(after["bias"], TWO["bias"])
  before, first = np.mean((X @ TWO["first"]) ** 2), info.operations[0]
  np.testing.assert_allclose(first.before, before, rtol=tolerance(WIDTH))
  np.testing.assert_allclose(first.factor, before**-0.5, rtol=tolerance(WIDTH))


def test_the_scale_of_the_parameters_does_not_matter():
  """calibrate(c · W) = calibrate(W), so a second time changes nothing."""
  rtol = tolerance(WIDTH, 2)
  once, *_ = run(two_layers, TWO, X)
  other = {**TWO, "first": TWO["first"] * 37, "second": TWO["second"] / 5}
  assert_close(run(two_layers, other, X)[0], once, rtol)
  twice, info, _ = run(two_layers, once, X)
  assert_close(twice, once, rtol)
  np.testing.assert_allclose([op.factor for op in info.operations], 1, rtol)


# One pass


def products_in(jaxpr):
  """Number of matrix products among the equations, each written once."""
  total = 0
  for equation in jaxpr.eqns:
    total += equation.primitive.name == "dot_general"
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      total += products_in(inner)
  return total


def test_the_pass_holds_the_products_of_the_model_and_no_other():
  for fn, params in ((stacked, FOUR), (unrolled, tuple(FOUR["kernel"]))):
    plain = jax.make_jaxpr(fn)(params, X)
    ours = jax.make_jaxpr(functools.partial(calibrate, fn))(params, X)
    assert products_in(ours.jaxpr) == products_in(plain.jaxpr)


def test_a_pass_costs_at_most_two_plain_ones():
  """By XLA's count of floating-point operations, at width 64, batch 256."""
  kernels, x = (np.zeros((64, 64)),) * 20, np.zeros((256, 64))

  def operations(program):
    return jax.jit(program).lower(kernels, x).cost_analysis()["flops"]

  ours = operations(functools.partial(calibrate, unrolled))
  assert ours <= 2 * operations(unrolled)


def test_the_model_is_traced_once_and_compiled_once():
  """Called eagerly, all is one program: a second call compiles nothing."""
  traced = []

  def model(params, x):
    traced.append(x.shape)
    return two_layers(params, x)

  x, params = X[:7], jax.tree.map(jnp.asarray, TWO)
  assert compilations(lambda: calibrate(model, params, x)) == 1
  assert compilations(lambda: calibrate(model, params, x + 1)) == 0
  assert traced == [x.shape] * 2


# Under transformations


def test_inside_jit_and_outside_it_are_one():
  inside, info, _ = run(two_layers, TWO, X)
  outside, _ = calibrate(two_layers, TWO, X)
  assert_close(inside, outside, tolerance(WIDTH, 2))
  assert "second_moment before" in str(info)


def test_vmap_over_seeds():
  """Each draw gets its own factors, as if it were alone."""
  draws = {"kernel": normal(6, 3, 4, WIDTH, WIDTH)}
  over = jax.jit(jax.vmap(lambda params: calibrate(stacked, params, X)))
  many, info = jax.device_get(over(draws))
  for draw, kernel in enumerate(draws["kernel"]):
    alone, *_ = run(stacked, {"kernel": kernel}, X)
    assert_close(many["kernel"][draw], alone["kernel"], tolerance(WIDTH, 4))
  assert len(jax.tree.map(lambda leaf: leaf[0], info).operations) == 4
  with pytest.raises(ValueError, match="one calibration, got several"):
    _ = info.operations


def test_a_traced_calibration_prints():
  said = []
  traced = lambda params: said.append(str(calibrate(two_layers, params, X)[1]))
  jax.eval_shape(traced, TWO)
  assert said == ["Calibration(2 operations, being traced)"]


def test_sharded_parameters_stay_sharded():
  """On meshes of 1, 2×4 and 8 devices: the same values, the same places."""
  spec = jax.sharding.PartitionSpec
  expected, *_ = run(stacked, FOUR, X)
  jitted = jax.jit(calibrate, static_argnums=0)
  for shape in ((1, 1), (2, 4), (1, 8)):
    mesh = jax.make_mesh(
      shape, ("data", "model"), (jax.sharding.AxisType.Auto,) * 2
    )
    place = jax.sharding.NamedSharding(mesh, spec(None, None, "model"))
    sharded = jax.device_put(FOUR, place)
    x = jax.device_put(X, jax.sharding.NamedSharding(mesh, spec("data")))
    for way in (jitted, calibrate) if shape == (2, 4) else (jitted,):
      after, _ = way(stacked, sharded, x)
      assert after["kernel"].sharding.is_equivalent_to(place, 3)
      assert_close(after, expected, tolerance(WIDTH, 4))


def test_bfloat16_parameters():
  """Entries are rounded once, to u = 2^-8.

  Rounding errors of a kernel's entries are independent and of either sign, at
  most u, so they move an output by at most u in root mean square over many
  outputs; the model's own rounding of its output adds u more. In all the second
  moment moves by 2·(u + u), after two layers twice that.
  """
  half, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (TWO, X))
  after, _ = check(two_layers, half, x, rtol=2 * 4 * 2**-8)
  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(after))
  ratio = after["first"].astype(np.float32) / half["first"].astype(np.float32)
  np.testing.assert_allclose(ratio, np.median(ratio), rtol=2**-7)


def test_dropout_keys_among_the_inputs():
  def dropping(params, x, key):
    kept = jax.random.bernoulli(key, 0.5, x.shape)
    return jnp.where(kept, x / 0.5, 0) @ params["first"]

  check(dropping, TWO, X, jax.random.key(7), rtol=tolerance(WIDTH))


# Errors


def test_errors_say_what_to_do():
  for target in (0, -1.0, np.nan):
    with pytest.raises(ValueError, match="target must be a finite number > 0"):
      calibrate(two_layers, TWO, X, target=target)
  with pytest.raises(ValueError, match="statistic must be one of"):
    calibrate(two_layers, TWO, X, statistic="std")
  with pytest.raises(ValueError, match="tied must be one of 'first'"):
    calibrate(two_layers, TWO, X, tied="last")
  shapes = jax.eval_shape(lambda: TWO)
  with pytest.raises(ValueError, match=r"needs values, .* at bias of params"):
    calibrate(two_layers, shapes, X)
  with pytest.raises(ValueError, match="a function that uses parameters"):
    calibrate(lambda params, x: x * params["bias"], TWO, X[:, :8])
  with pytest.raises(
    ValueError, match=r"closes over are constants.*fn\(params"
  ):
    calibrate(lambda params: two_layers(params, X), TWO)
  with pytest.raises(TypeError, match="expected a function"):
    calibrate("model", TWO, X)


def test_numpy_that_is_no_kernel_comes_back():
  params = {"w": np.ones((3, 3)), "b": np.ones(3)}
  model = lambda p, x: x @ p["w"] + p["b"]
  after, _ = calibrate(model, params, np.ones((2, 3)))
  assert after["b"] is params["b"]
