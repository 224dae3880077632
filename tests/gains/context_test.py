"""Gains are numbers, the same ones wherever and whenever they are asked for."""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from initjax.gains import gain, moments
from initjax.gains._moments import cached_moments

ONES = np.ones(8, np.float32)


def compute():
  """Numbers of a smooth, a kinked, a custom, a jumping, a mixing function."""
  cached_moments.cache_clear()
  activations = (
    jax.nn.gelu,
    lambda x: abs(x - 0.3),
    jax.nn.selu,
    lambda x: jnp.where(x > 0.3, 1.0, 0.0),
    lambda x: jnp.tanh(x[:, None] * np.ones(2, np.float32)).sum(-1),  # promotes
  )
  return [moments(activation, 0.7) for activation in activations]


@pytest.fixture(scope="module")
def expected():
  with jax.enable_x64(False):
    return compute()


def traced_by(transform):
  """Runs `compute` while `transform` traces a function of x: [8] or scalar."""

  def run():
    found = []

    def body(x):
      found.append(compute())
      return x * found[-1][0].mean

    transform(body)
    return found[0]

  return run


def mesh(kind):
  return jax.make_mesh((8,), ("x",), axis_types=(kind,))


def sharded(body, wrap):
  spec = PartitionSpec("x")
  run = jax.shard_map(
    body, mesh=mesh(AxisType.Auto), in_specs=spec, out_specs=spec
  )
  return wrap(run)(ONES)


TRANSFORMS = {
  "eager": lambda body: body(ONES),
  "jit": lambda body: jax.jit(body)(ONES),
  "jit of jit": lambda body: jax.jit(jax.jit(body))(ONES),
  "vmap": lambda body: jax.vmap(body)(ONES),
  "grad": lambda body: jax.grad(body)(1.0),
  "jvp": lambda body: jax.jvp(body, (1.0,), (1.0,)),
  "remat": lambda body: jax.grad(jax.checkpoint(body))(1.0),
  "scan": lambda body: jax.lax.scan(
    lambda c, x: (body(c), x), np.float32(1), ONES[:3]
  ),
  "while": lambda body: jax.lax.while_loop(lambda x: x > 0.5, body, 1.0),
  "eval_shape": lambda body: jax.eval_shape(body, ONES),
  "shard_map": lambda body: sharded(body, lambda run: run),
  "jit of shard_map": lambda body: sharded(body, jax.jit),
}

SETTINGS = {
  "x64": lambda: jax.enable_x64(True),
  "debug_nans": lambda: jax.debug_nans(True),
  "debug_infs": lambda: jax.debug_infs(True),
  "strict dtypes": lambda: jax.numpy_dtype_promotion("strict"),
  "strict ranks": lambda: jax.numpy_rank_promotion("raise"),
  "disable_jit": jax.disable_jit,
  "checking_leaks": jax.checking_leaks,
  "default_device": lambda: jax.default_device(jax.devices()[5]),
  "explicit mesh": lambda: jax.set_mesh(mesh(AxisType.Explicit)),
  "auto mesh": lambda: jax.set_mesh(mesh(AxisType.Auto)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_numbers_are_equal_under_every_transform(name, expected):
  assert traced_by(TRANSFORMS[name])() == expected


@pytest.mark.parametrize("name", SETTINGS)
def test_numbers_are_equal_under_every_setting(name, expected):
  with SETTINGS[name]():
    assert compute() == expected
    assert traced_by(TRANSFORMS["jit"])() == expected


def test_under_an_explicit_mesh_with_a_sharded_argument(expected):
  with jax.set_mesh(mesh(AxisType.Explicit)):
    x = jax.device_put(ONES, PartitionSpec("x"))
    assert traced_by(lambda body: jax.jit(body)(x))() == expected
    assert traced_by(lambda body: body(x))() == expected


OPTIONS = {
  "jax_enable_x64": True,
  "jax_debug_nans": True,
  "jax_disable_jit": True,
  "jax_numpy_dtype_promotion": "strict",
  "jax_numpy_rank_promotion": "raise",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_numbers_are_equal_under_global_options(option, expected):
  """Options set for all threads, not only for this one."""
  before = getattr(jax.config, option)
  with contextlib.ExitStack() as stack:
    stack.callback(jax.config.update, option, before)
    jax.config.update(option, OPTIONS[option])
    np.testing.assert_allclose(  # without jit, XLA fuses (rounds) differently
      compute(), expected, rtol=1e-12 if option == "jax_disable_jit" else 0
    )


def test_results_are_plain_numbers():
  assert type(gain(jnp.tanh)) is float
  assert {type(moment) for moment in moments(jnp.tanh)} == {float}
  assert {type(moment) for moment in moments(jnp.tanh, [1.0])} == {np.ndarray}


def test_an_array_of_jax_is_a_variance():
  np.testing.assert_array_equal(
    moments(jnp.tanh, jnp.ones(3)).second_moment,
    [moments(jnp.tanh).second_moment] * 3,
  )


def test_a_traced_variance_is_refused():
  for use in (
    lambda v: gain(jnp.tanh, variance=v),
    lambda v: moments(jnp.tanh, v),
    lambda v: moments(jnp.tanh, [1.0, v]),
  ):
    with pytest.raises(
      TypeError, match="variance must be a number that is known"
    ):
      jax.jit(use)(1.0)


TRACERS = [
  lambda f: jax.jit(f)(1.0),
  lambda f: jax.grad(f)(1.0),
  lambda f: jax.vmap(f)(np.ones(2)),
  lambda f: jax.lax.scan(lambda c, x: (c, f(x)), 0.0, np.ones(2)),
  lambda f: jax.jit(lambda x: f(jax.jit(lambda y: 2 * y)(x)))(1.0),
]


@pytest.mark.parametrize("transform", TRACERS)
@pytest.mark.parametrize(
  "close_over",
  [
    lambda slope: lambda x: jnp.tanh(slope * x),
    lambda slope: jax.jit(lambda x: jnp.tanh(slope * x)),
    lambda slope: functools.partial(jax.nn.leaky_relu, negative_slope=slope),
  ],
)
def test_an_activation_over_a_traced_value_is_refused(transform, close_over):
  with pytest.raises(TypeError, match="uses a value that is being traced"):
    transform(lambda slope: gain(close_over(slope)))


def test_a_missing_cpu_backend_is_named(monkeypatch):
  def no_cpu(backend=None):
    raise RuntimeError(f"Unknown backend {backend}")

  monkeypatch.setattr(jax, "local_devices", no_cpu)
  with pytest.raises(RuntimeError, match="set JAX_PLATFORMS to, for example"):
    gain(lambda x: jnp.tanh(x))


def test_many_threads_at_once(expected):
  """Each call has a thread of its own; they share only the cache."""
  import concurrent.futures

  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    results = [threads.submit(compute) for _ in range(4)]
    assert all(result.result() == expected for result in results)
  assert math.isfinite(expected[0].mean)
