"""Var W = scale/n: which scale, which n, which law, which errors."""

import itertools
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from initjax import initializers as init

KEY = jax.random.key(5, impl="rbg")  # compiles faster than threefry
FAN_IN, FAN_OUT = 200, 300
MODES = {
  "fan_in": FAN_IN,
  "fan_out": FAN_OUT,
  "fan_avg": (FAN_IN + FAN_OUT) / 2,
  "fan_geo_avg": math.sqrt(FAN_IN * FAN_OUT),
}


def law(distribution, variance):
  """The scipy law of this name with mean 0."""
  std = math.sqrt(variance)
  if distribution == "normal":
    return stats.norm(0, std)
  if distribution == "uniform":
    return stats.uniform(-math.sqrt(3) * std, 2 * math.sqrt(3) * std)
  return stats.truncnorm(-2, 2, 0, std / stats.truncnorm(-2, 2).std())


def gaussian_mean(function):
  """E[function(z)] by scipy, with no code of ours."""
  integrand = lambda z: function(z) * math.exp(-z * z / 2)
  return integrate.quad(integrand, -12, 12)[0] / math.sqrt(2 * math.pi)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
  "distribution", ["truncated_normal", "normal", "uniform"]
)
def test_variance_scaling(distribution, mode, assert_law):
  build = init.variance_scaling(1.7, mode, distribution)
  desired = law(distribution, 1.7 / MODES[mode])
  assert_law(build(KEY, (FAN_IN, FAN_OUT)), desired)


@pytest.mark.parametrize(
  ("name", "options", "variance"),
  [
    ("lecun", {}, 1 / FAN_IN),
    ("xavier", {}, 2 / (FAN_IN + FAN_OUT)),
    ("glorot", {"gain": 5 / 3}, (5 / 3) ** 2 * 2 / (FAN_IN + FAN_OUT)),
    ("xavier", {"gain": 0.5}, 0.25 * 2 / (FAN_IN + FAN_OUT)),
    ("kaiming", {}, 2 / FAN_IN),
    ("he", {"negative_slope": 0.2}, 2 / 1.04 / FAN_IN),
    ("kaiming", {"negative_slope": -0.5}, 2 / 1.25 / FAN_IN),
    ("kaiming", {"mode": "fan_out"}, 2 / FAN_OUT),
    ("he", {"negative_slope": 1.0, "mode": "fan_geo_avg"}, 244.95**-1),
  ],
)
@pytest.mark.parametrize("suffix", ["normal", "uniform"])
def test_named_laws(suffix, name, options, variance, assert_law):
  build = getattr(init, f"{name}_{suffix}")(**options)
  distribution = "uniform" if suffix == "uniform" else "truncated_normal"
  sample = build(KEY, (FAN_IN, FAN_OUT))
  assert_law(sample, law(distribution, variance))


def tanh_gelu(z):
  cubic = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
  return 0.5 * z * (1 + math.tanh(cubic))


def gelu_slope(z):
  return stats.norm.cdf(z) + z * stats.norm.pdf(z)


def second_moment(function):
  return gaussian_mean(lambda z: function(z) ** 2)


exact_gelu = partial(jax.nn.gelu, approximate=False)


@pytest.mark.parametrize(
  ("activation", "direction", "inverse_scale"),
  [
    (jax.nn.gelu, "forward", lambda: second_moment(tanh_gelu)),
    (jax.nn.gelu, "centered",
     lambda: second_moment(tanh_gelu) - gaussian_mean(tanh_gelu) ** 2),
    (exact_gelu, "backward", lambda: second_moment(gelu_slope)),
    (jnp.tanh, "forward", lambda: second_moment(math.tanh)),
    (jnp.tanh, "backward", lambda: gaussian_mean(lambda z: np.cosh(z) ** -4)),
    (jax.nn.relu, "forward", lambda: 1 / 2),
    (jax.nn.relu, "backward", lambda: 1 / 2),
    (jax.nn.relu, "centered", lambda: 1 / 2 - 1 / (2 * math.pi)),
  ],
)  # fmt: skip
def test_activation_scaling(activation, direction, inverse_scale, assert_law):
  build = init.activation_scaling(activation, direction=direction)
  variance = 1 / inverse_scale() / FAN_IN
  sample = build(KEY, (FAN_IN, FAN_OUT))
  assert_law(sample, law("truncated_normal", variance))


def test_activation_scaling_of_relu_is_kaiming(drawn):
  builds = []
  for mode in ("fan_in", "fan_out"):
    for suffix, name in (("normal", "truncated_normal"), ("uniform",) * 2):
      builds.append(init.activation_scaling(jax.nn.relu, mode, name))
      builds.append(getattr(init, f"kaiming_{suffix}")(mode=mode))
  kernels = drawn(KEY, *((build, (4, 5)) for build in builds))
  # The gain is exact to 1e-12 in float64; its float32 rounding to one ulp.
  for general, special in zip(kernels[::2], kernels[1::2], strict=True):
    np.testing.assert_allclose(general, special, rtol=4e-7)


@pytest.mark.parametrize(
  ("shape", "axes", "fan_in"),
  [
    ((3, 5, 16, 250), (), 3 * 5 * 16),
    ((240, 250), (-1, -2), 250),
    ((16, 15, 250), ((0, 1), 2), 240),
    ((15, 16, 250), (1, 2, 0), 16),
  ],
)
def test_fan_in_counts_what_one_output_sums(shape, axes, fan_in, assert_law):
  assert_law(init.lecun_uniform(*axes)(KEY, shape), law("uniform", 1 / fan_in))


def test_bounds_hold_in_bfloat16(drawn):
  # Each bound lies just below a number of bfloat16, to which draws round up.
  shape = (FAN_IN, FAN_OUT)
  cases = [
    (init.lecun_uniform(), math.sqrt(3 / FAN_IN)),
    (init.lecun_normal(), 2 / stats.truncnorm(-2, 2).std() / math.sqrt(FAN_IN)),
    (init.torch_linear_bias(3), math.sqrt(1 / 3)),
    (init.siren(first=True), 1 / FAN_IN),
  ]
  asked = [(partial(f, dtype=jnp.bfloat16), shape) for f, _ in cases]
  for kernel, (_, bound) in zip(drawn(KEY, *asked), cases, strict=True):
    largest = np.abs(kernel.astype(np.float64)).max()
    assert (1 - 2**-6) * bound < largest <= bound


def counted_fans(shape, groups):
  """(fan_in, fan_out) of a grouped convolution, its taps added up as ones."""
  *window, ins, outs = shape
  layer = nn.Conv(outs, window, padding="CIRCULAR", use_bias=False,
                  feature_group_count=groups)  # fmt: skip
  kernel = {"params": {"kernel": np.ones(shape, np.float32)}}
  y, pullback = jax.vjp(
    lambda x: layer.apply(kernel, x), jnp.ones((1, *window, ins * groups))
  )
  (gradient,) = pullback(jnp.ones_like(y))
  return y.min(), y.max(), gradient.min(), gradient.max()


@pytest.mark.parametrize(
  ("shape", "groups"),
  [((3, 3, 1, 1024), 512), ((3, 8, 384), 4)],
)
def test_groups_share_the_outputs(shape, groups, assert_law, drawn):
  ends = jax.jit(lambda: counted_fans(shape, groups))()
  fan_in, least_in, fan_out, least_out = map(float, ends)
  assert (fan_in, fan_out) == (least_in, least_out)
  options = {"groups": groups}
  relu = init.activation_scaling(jax.nn.relu, "fan_out", "uniform", **options)
  cases = [
    (init.lecun_uniform(**options), "uniform", 1 / fan_in),
    (init.kaiming_uniform(mode="fan_out", **options), "uniform", 2 / fan_out),
    (init.xavier_normal(**options), "truncated_normal", 2 / (fan_in + fan_out)),
    (init.variance_scaling(3.0, "fan_geo_avg", "normal", **options), "normal",
     3 / math.sqrt(fan_in * fan_out)),
    (relu, "uniform", 2 / fan_out),
  ]  # fmt: skip
  kernels = drawn(KEY, *((build, shape) for build, *_ in cases))
  for kernel, (_, name, variance) in zip(kernels, cases, strict=True):
    assert_law(kernel, law(name, variance))


def test_every_name_takes_groups_and_refuses_a_rest(drawn):
  shape, suffixes = (3, 1, 8), ("normal", "uniform")
  families = ("lecun", "xavier", "kaiming")
  names = ["_".join(pair) for pair in itertools.product(families, suffixes)]
  for name in names:
    with pytest.raises(ValueError, match=r"groups=3; got 8 in .* in/groups"):
      getattr(init, name)(groups=3)(KEY, shape)
  # fan_in is 3; an input feeds 3·8 outputs, of two groups only those of its
  # own. The draws are the same but for the factor.
  builds = [getattr(init, name)(groups=groups)
            for name in names for groups in (1, 2)]  # fmt: skip
  kernels = drawn(KEY, *((build, shape) for build in builds))
  for name, one, two in zip(names, kernels[::2], kernels[1::2], strict=True):
    ratio = (3 + 24) / (3 + 12) if name.startswith("xavier") else 1.0
    np.testing.assert_allclose(two, math.sqrt(ratio) * one, rtol=4e-7)


def test_complex_variance(assert_law, drawn):
  """|W|² of the normal disc within two σ is exponential, cut at 4."""
  build = init.activation_scaling(jax.nn.relu)
  draw = lambda key, shape: build(key, shape, jnp.complex64)
  jaxs = lambda key, shape: init.he_normal()(key, shape, jnp.complex64)
  exact, approximate = drawn(KEY, *((f, (200, 300)) for f in (draw, jaxs)))
  cut = stats.truncexpon(4)
  desired = stats.truncexpon(4, scale=2 / FAN_IN / cut.mean())
  assert_law(np.abs(exact) ** 2, desired)
  excess = cut.mean() / 0.95311164380491208**2
  assert round(excess, 4) == 1.0187  # as documented
  np.testing.assert_allclose(
    approximate, math.sqrt(excess) * exact, rtol=1e-6, atol=1e-9
  )


@pytest.mark.parametrize(
  ("name", "args", "options", "message"),
  [
    ("variance_scaling", (1.0, "fan", "normal"), {}, "mode must be one of"),
    ("kaiming_normal", (), {"mode": "in"}, r"'fan_geo_avg'; got 'in'"),
    ("variance_scaling", (1.0, "fan_in", "gauss"), {},
     "distribution must be one of .*; got 'gauss'"),
    ("variance_scaling", (-1.0, "fan_in", "normal"), {},
     r"scale must be a finite number >= 0; got -1\.0"),
    ("variance_scaling", (math.nan, "fan_in", "normal"), {},
     "scale must be a finite number"),
    ("xavier_normal", (), {"gain": -1.0}, "gain must .* >= 0; got -1"),
    ("xavier_uniform", (), {"gain": math.nan}, "gain must be a finite"),
    ("he_uniform", (), {"negative_slope": math.inf}, "negative_slope must"),
    ("activation_scaling", (jax.nn.relu, "fan"), {}, "mode must be"),
    ("activation_scaling", (jax.nn.relu,), {"direction": "up"},
     "direction must be one of"),
    ("lecun_normal", ((0, 1), 2, 1), {}, "in_axis and batch_axis overlap"),
    ("lecun_normal", (0, 2, -2), {"groups": 0}, "groups must be an integer"),
    ("he_uniform", (), {"groups": 2.0}, "groups must be an integer >= 1"),
    ("he_normal", (0, (1, 1)), {}, r"out_axis=\(1, 1\) holds axis 1 twice"),
    ("he_normal", ((0.5,),), {}, "in_axis must be an axis or"),
  ],
)  # fmt: skip
def test_errors_when_built(name, args, options, message):
  with pytest.raises(ValueError, match=message):
    getattr(init, name)(*args, **options)


@pytest.mark.parametrize(
  ("axes", "shape", "message"),
  [
    ((), (), r"rank >= 2, got shape \(\); for a bias use zeros"),
    ((), (3,), r"rank >= 2, got shape \(3,\); for a bias use zeros"),
    ((0, 2), (3, 4), r"out_axis=2 is outside the shape \(3, 4\) of rank 2"),
    ((-3, -1), (3, 4), "in_axis=-3 is outside"),
    ((-2, -1, 5), (3, 4), "batch_axis=5 is outside"),
    ((0, 1, -1), (3, 4), "out_axis and batch_axis overlap: both hold axis 1"),
    (((-1, 1), 0), (3, 4), r"in_axis=\(1, 1\) holds axis 1 twice"),
  ],
)
def test_errors_of_shapes(axes, shape, message):
  for build in (init.he_normal, init.torch_linear_kernel):
    with pytest.raises(ValueError, match=message):
      build(*axes)(KEY, shape)
