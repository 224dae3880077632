"""What `auto_init` and `calibrate` set is measured once, and what strays said.

A chain of n coupling layers is x ↦ x·exp(s(x)) + t(x): where a sample is a bit
too large, s is, and its exponential far too large.
"""

import functools
import math
import re
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import compilations, normal, two_layer_params, two_layers

from initjax.model_init import auto_init, calibrate, init_variables, plan_init

KEY = jax.random.key(0)
D = 16
X = normal(32, D)
like = lambda *shape: np.zeros(shape, np.float32)
VERBS = {
  "auto_init": lambda *given, **options: auto_init(KEY, *given, **options),
  "calibrate": lambda *given, **options: calibrate(*given, **options)[0],
}


def couplings(params, x, bounded=lambda s: s):
  for up, down in params:
    same, other = jnp.split(x, 2, axis=-1)
    s, t = jnp.split(jax.nn.relu(same @ up) @ down, 2, axis=-1)
    x = jnp.concatenate([other * jnp.exp(bounded(s)) + t, same], -1)
  return x


def siren(params, x):
  for kernel in params:
    x = jnp.sin(30 * x) @ kernel
  return x


def squares(params, x):
  for kernel in params:
    x = jnp.square(x @ kernel)
  return x


def said(run):
  """The one warning of a call; "" if there is none."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    run()
  assert len(caught) <= 1
  return str(caught[0].message) if caught else ""


# What is not finite is an error


def test_a_flow_that_overflows_is_an_error_that_says_what_to_do():
  params = [(like(D // 2, D), like(D, D))] * 6
  with pytest.raises(FloatingPointError) as caught:
    auto_init(KEY, couplings, params, 2 * X)
  message = str(caught.value)
  assert re.search(r"auto_init: the signal is not finite at \d/\d", message)
  assert re.search(r"second moment is 2\^\S+ at .* where 1 was wanted", message)
  assert "exp(tanh(s)) for exp(s)" in message
  drawn = auto_init(KEY, couplings, params, 2 * X, check=False)
  assert not np.isfinite(couplings(drawn, 2 * X)).all()


@pytest.mark.parametrize("verb", VERBS)
def test_a_gradient_that_is_not_finite_is_one(verb):
  """√(h²) has the slope 0/0 at 0, where relu puts half of its arguments."""
  root = lambda p, x: jnp.sqrt(jnp.maximum(x @ p[0], 0) ** 2) @ p[1]
  params = [normal(D, D, seed=2), normal(D, D, seed=3)]
  with pytest.raises(FloatingPointError, match=f"{verb}: the gradient is not"):
    VERBS[verb](root, params, X)
  VERBS[verb](root, params, X, check=False)


# What strays is warned of


def test_the_gradient_of_siren_is_named():
  """χ₁ = E[φ'²]/E[φ²] = 30² a layer: 2^9.8."""
  params = [like(D, D)] * 5
  run = functools.partial(auto_init, KEY, siren, params, X, direction="forward")
  message = said(run)
  assert "900.000 times per layer fed by sin(30·x)" in message
  (bits,) = re.findall(r"explodes.*2\^(\S+) times", message)
  assert float(bits) > 20
  plan = plan_init(siren, params, X, direction="forward")
  assert plan.notes[0] in message


@pytest.mark.parametrize("verb", VERBS)
def test_what_vanishes_is_named(verb):
  """Sigmoids: E[φ'²]/E[φ²] = 0.15 a layer."""
  layer = lambda h, w: (jax.nn.sigmoid(h @ w), None)
  fn = lambda p, x: jax.lax.scan(layer, x, p)[0]
  message = said(lambda: VERBS[verb](fn, normal(8, D, D), X))
  assert re.search(rf"{verb}:.*The gradient vanishes", message, re.DOTALL)


def test_a_signal_that_strays_is_named_with_its_reason():
  """A kernel of unit columns under relu halves the second moment."""

  def normed(params, x):
    for kernel in params:
      x = jax.nn.relu(x @ (kernel / jnp.linalg.norm(kernel, axis=0)))
    return x

  message = said(lambda: auto_init(KEY, normed, [like(D, D) + 1] * 8, X))
  pattern = r"moment is 2\^-[3-6]\S* at \d, fed by relu, where 1 was wanted"
  assert re.search(pattern, message)
  assert "computed from parameters" in message


def test_the_size_of_an_input_is_named():
  message = said(
    lambda: auto_init(KEY, two_layers, two_layer_params(), 255 * Y)
  )
  assert "an input has the second moment" in message
  assert "where second_moment=1 was taken" in message
  size = float(np.mean((255 * Y) ** 2))
  run = lambda: auto_init(
    KEY, two_layers, two_layer_params(), 255 * Y, second_moment=size
  )
  assert not said(run)


Y = normal(32, 64)


def test_a_guess_before_a_fast_function_is_warned_of_on_shapes_too():
  """What a sort gives is not followed; its square is, but for its size."""
  fn = lambda p, x: jnp.exp(jnp.sort(x @ p[0])) @ p[1]
  shape = jax.ShapeDtypeStruct((D, D), jnp.float32)
  message = said(lambda: auto_init(KEY, fn, [shape, shape], shape))
  assert "1 is fed by exp" in message
  assert "a guess (assumed unit second moment: sort)" in message


@pytest.mark.parametrize("branch", [0, 1])
def test_rectified_residual_streams_keep_their_size(branch):
  """relu(x + branch·f(x)): without a branch the stream stays as it is.

  A layer draws its mean square to 1 ± √(5/width) or less, the l-th branch is
  about 1/l of the stream, Σ 1/l² < π²/6; stem and readout have √(2/width).
  """
  depth = 16

  def model(params, x):
    def block(x, kernels):
      up, down = kernels
      return jax.nn.relu(x + branch * (jax.nn.relu(x @ up) @ down)), None

    x = jax.nn.relu(x @ params["in"])
    return jax.lax.scan(block, x, params["blocks"])[0] @ params["out"]

  width = 64
  blocks = (like(depth, width, width), like(depth, width, width))
  params = {"in": like(width, width), "blocks": blocks}
  params["out"] = like(width, width)
  drawn = auto_init(KEY, model, params, Y)  # and nothing is warned of
  size = float(np.mean(np.square(model(drawn, Y))))
  std = math.sqrt((2 * 5 * math.pi**2 / 6 + 2 * 2) / width)
  assert abs(math.log(size)) < 3 * std


@pytest.mark.parametrize("verb", VERBS)
def test_healthy_models_are_not_warned_of(verb):
  """Also with several outputs, integers, a loop without gradient, one unit."""

  def several(params, tokens, x):
    h = jnp.tanh(params["table"][tokens] + x @ params["in"])
    _, h = jax.lax.while_loop(
      lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, h)
    )
    return {"ids": jnp.argmax(h, -1), "h": h, "loss": (h @ params["one"]).sum()}

  params = {
    "table": normal(8, D, seed=2), "in": normal(D, D, seed=3),
    "one": normal(D, 1, seed=4),
  }  # fmt: skip
  tokens = np.arange(32) % 8
  assert not said(lambda: VERBS[verb](several, params, tokens, X))
  ids = lambda p, x: jnp.argmax(jax.nn.relu(x @ p[0]) @ p[1], -1)
  assert not said(lambda: VERBS[verb](ids, [normal(D, D), normal(D, D)], X))


def test_variables_of_a_model_are_measured_where_that_is_asked_for():
  """Flax's own LeCun kernels halve a signal at every relu, both ways."""
  layers = [layer for _ in range(24) for layer in (nn.Dense(D), nn.relu)]
  model = nn.Sequential(layers)
  run = lambda **options: init_variables(KEY, model, X, **options)
  message = said(lambda: run(check=True))
  assert re.search(
    r"init_variables: The gradient vanishes: .* is 2\^-", message
  )
  assert not said(run)
  with pytest.raises(ValueError, match="check=True works for linen modules"):
    init_variables(KEY, lambda key: {"w": X}, check=True)


# When and how it is measured


@pytest.mark.parametrize("verb", VERBS)
def test_one_program_and_one_pass(verb):
  """A second draw compiles nothing; the model is traced once a call."""
  traced = []

  def model(params, x):
    traced.append(1)
    return two_layers(params, x)

  params = jax.tree.map(jnp.asarray, two_layer_params())
  run = lambda check: VERBS[verb](model, params, Y, check=check)
  run(False)
  more = 1  # calibrate's own program is another one then
  assert compilations(lambda: run(True)) == more
  assert compilations(lambda: run(True)) == 0
  assert len(traced) == 3


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_measured_while_traced_nor_on_placeholders(verb):
  params = [(normal(D // 2, D), normal(D, D))] * 6
  run = lambda params, x: VERBS[verb](couplings, params, x)
  jax.eval_shape(run, params, X)
  jax.jit(run)(params, 2 * X)
  for placeholder in (np.zeros_like(X), np.ones_like(X), 100 + 0 * X):
    VERBS[verb](couplings, params, placeholder)


def test_sharded_parameters_are_measured_where_they_are():
  auto = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((2, 4), ("x", "y"), auto)
  place = lambda x, *spec: jax.device_put(
    x, jax.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
  )
  split = {"in": ("x", "y"), "bias": ("y",), "out": ("y", "x")}
  params = two_layer_params()
  placed = {name: place(leaf, *split[name]) for name, leaf in params.items()}
  x = place(255 * Y, "x")
  drawn = []
  run = lambda: drawn.append(auto_init(KEY, two_layers, placed, x))
  assert "an input has the second moment" in said(run)
  assert drawn[0]["in"].sharding.is_equivalent_to(placed["in"].sharding, 2)
