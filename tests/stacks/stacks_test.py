"""Reference networks against numpy, their own gradients, and their symmetry."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax._statistics import Statistics
from initjax.stacks import conv, mlp, propagate, residual

DEPTH, WIDTH = 4, 5
# float64: a few hundred terms and operations a layer, each rounding by 2e-16.
ROUNDING = 1e-12

options = {
  "activation": jnp.tanh,
  "kernel_init": jax.nn.initializers.he_normal(),
  "bias_init": jax.nn.initializers.normal(0.3),
}
NETWORKS = {
  "mlp": (mlp, (3, 6)),
  "residual": (functools.partial(residual, branch_scale=0.7), (3, 6)),
  "conv1d": (functools.partial(conv, window=(4,)), (3, 7, 2)),
  "conv2d": (functools.partial(conv, window=(3, 2)), (3, 5, 4, 2)),
}


@pytest.fixture(autouse=True)
def in_float64():
  with jax.enable_x64(True):
    yield


@functools.cache
def case(name, depth=DEPTH):
  """A stack, and numbers for it from numpy (jax takes seconds to compile)."""
  build, shape = NETWORKS[name]
  stack = build(depth=depth, width=WIDTH, **options)
  shapes = jax.eval_shape(
    lambda: stack.init(jax.random.key(0), shape, jnp.float64)
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape), shapes)
  x = rng.normal(size=shape)
  return stack, params, x, rng.normal(size=(*shape[:-1], WIDTH))


@functools.cache
def jitted(name):
  return jax.jit(functools.partial(propagate, case(name)[0]))


def all_statistics(signals):
  """Statistics [depth] by numpy; no entry is 0 here."""
  x = np.reshape(np.stack(signals), (DEPTH, -1))
  zeros = np.zeros(DEPTH)
  return Statistics(
    x.mean(1),
    np.log2((x**2).mean(1)),
    abs(x).max(1),
    zeros,
    zeros,
    zeros + x.shape[1],
  )


def assert_close(actual, expected):
  """Signals are float64; statistics of them are rounded to float32 once."""
  chex.assert_trees_all_close(
    *jax.tree.map(np.float64, (actual, expected)),
    rtol=float(np.finfo(np.float32).eps),
    atol=ROUNDING,
  )


def assert_close_signals(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=ROUNDING, atol=ROUNDING)


def linear_by_hand(x, kernel, bias, module):
  """x·W, or a sum of rolled copies, one for each place in the window."""
  window = kernel.shape[:-2]
  y = 0
  for place in np.ndindex(*window):
    shift = [(size - 1) // 2 - i for i, size in zip(place, window, strict=True)]
    rolled = module.roll(x, shift, tuple(range(1, 1 + len(window))))
    y = y + rolled @ kernel[place]
  return y + bias


def forward_by_hand(name, params, x, module=np, perturbations=None):
  """All that layers hand on, unrolled; `perturbations` are added to it."""
  branch = 0.7 if name == "residual" else None
  kernels = [params.first_kernel, *params.kernels]
  biases = [params.first_bias, *params.biases]
  signals, h = [], x
  for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
    if layer == 0:
      h = linear_by_hand(h, kernel, bias, module)
    else:
      y = linear_by_hand(module.tanh(h), kernel, bias, module)
      h = y if branch is None else h + branch * y
    h = h if perturbations is None else h + perturbations[layer]
    signals.append(h)
  return signals


@pytest.mark.parametrize("name", NETWORKS)
def test_signals_equal_numpy_and_the_gradients(name):
  """Backward: the gradient with respect to zeros added to every layer."""
  _, params, x, cotangent = case(name)
  by_hand = forward_by_hand(name, params, x)

  def loss(perturbations):
    signals = forward_by_hand(name, params, x, jnp, perturbations)
    return jnp.sum(signals[-1] * cotangent)

  zeros = np.zeros((DEPTH, *cotangent.shape))
  gradients = jax.jit(jax.grad(loss))(zeros)
  signals = jitted(name)(params, x, cotangent)
  assert_close_signals(signals.outputs, by_hand[-1])
  assert_close(signals.forward, all_statistics(by_hand))
  assert_close(signals.backward, all_statistics(gradients))
  # The last layer's gradient is the cotangent that was sent.
  assert_close(signals.backward.mean[-1], cotangent.mean())


def test_apply_is_the_forward_half_of_propagate():
  stack, params, *sent = case("residual")
  signals = jitted("residual")(params, *sent)
  both = lambda *of: (stack.apply(*of), stack.apply_with_statistics(*of))
  outputs, with_statistics = jax.jit(both)(params, sent[0])
  assert_close_signals(outputs, signals.outputs)
  assert_close(with_statistics, (signals.outputs, signals.forward))


def test_propagate_eagerly_and_under_vmap():
  stack, params, x, cotangent = case("residual")
  expected = jitted("residual")(params, x, cotangent)
  assert_close(propagate(stack, params, x, cotangent), expected)
  both = jax.jit(jax.vmap(functools.partial(propagate, stack), (None, 0, 0)))(
    params, np.stack([x, x]), np.stack([cotangent, 2 * cotangent])
  )
  assert_close(jax.tree.map(lambda leaf: leaf[0], both), expected)
  assert_close(
    both.backward.log2_second_moment[1],
    expected.backward.log2_second_moment + 2,
  )


def test_propagate_in_a_narrow_dtype_with_x64_on():
  _, *arguments = case("mlp")
  narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), arguments)
  signals, exact = jitted("mlp")(*narrow), jitted("mlp")(*arguments)
  assert signals.outputs.dtype == jnp.bfloat16
  # Each of 4 layers rounds inputs, kernels, products and tanh: 4·4·ε, and
  # twice that for a second moment, over ln 2.
  np.testing.assert_allclose(
    signals.backward.log2_second_moment,
    exact.backward.log2_second_moment,
    atol=2 * 16 * float(jnp.finfo(jnp.bfloat16).eps) / np.log(2),
  )


def equations(jaxpr):
  """All equations of a jaxpr, those inside others included."""
  count = 0
  for equation in jaxpr.eqns:
    count += 1
    for inner in jax.tree.leaves(
      list(equation.params.values()),
      is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"),
    ):
      inner = getattr(inner, "jaxpr", inner)
      count += equations(inner) if hasattr(inner, "eqns") else 0
  return count


@pytest.mark.parametrize("name", NETWORKS)
def test_programs_do_not_grow_with_depth(name):
  def size(depth):
    stack, params, x, cotangent = case(name, depth)
    run = jax.make_jaxpr(functools.partial(propagate, stack))
    init = jax.make_jaxpr(lambda: stack.init(jax.random.key(0), x.shape))
    return [equations(of.jaxpr) for of in (run(params, x, cotangent), init())]

  assert size(10) == size(100)
  assert size(10)[0] > 20


@pytest.mark.parametrize("name", ["conv1d", "conv2d"])
def test_every_position_of_a_convolution_is_equivalent(name):
  stack, params, x, _ = case(name)
  apply = jax.jit(stack.apply)
  for axis in range(1, x.ndim - 1):
    shifted = apply(params, np.roll(x, 1, axis))
    assert_close_signals(shifted, np.roll(apply(params, x), 1, axis))


ERRORS = [
  (mlp, {"depth": 1}, "depth must be .* >= 2; got 1"),
  (mlp, {"depth": 2.0}, "depth must be an integer"),
  (residual, {"depth": 1}, "depth must be"),
  (conv, {"depth": 0}, "depth must be"),
  (mlp, {"width": 0}, "width must be .* >= 1; got 0"),
  (conv, {"width": True}, "width must be an integer"),
  (conv, {"window": ()}, "window must have one to three"),
  (conv, {"window": (3,) * 4}, "window must have one to three"),
  (conv, {"window": (3, 0)}, "every size of window must be .* >= 1; got 0"),
  (residual, {"branch_scale": np.nan}, "branch_scale must be a finite number"),
]


@pytest.mark.parametrize(("build", "change", "message"), ERRORS)
def test_errors_when_built(build, change, message):
  with pytest.raises(ValueError, match=message):
    build(**{"depth": 2, "width": 3, **options, **change})


def test_a_window_larger_than_the_data_is_refused():
  stack = conv(depth=2, width=3, window=(3, 3), **options)
  params = jax.eval_shape(lambda: stack.init(jax.random.key(0), (1, 4, 2, 1)))
  with pytest.raises(ValueError, match=r"\(3, 3\) is larger than .* \(4, 2\)"):
    jax.eval_shape(
      stack.apply, params, jax.ShapeDtypeStruct((1, 4, 2, 1), float)
    )
