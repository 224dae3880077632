"""Gains against their definition, and PyTorch's table."""

import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import initjax
from initjax.gains import gain, moments, torch_gain

DIRECTIONS = ("forward", "backward", "centered")


@hypothesis.settings(
  max_examples=15, deadline=None, derandomize=True, database=None
)
@hypothesis.given(
  activation=st.sampled_from([jnp.tanh, jax.nn.gelu, jax.nn.softplus]),
  v=st.floats(-3, 3).map(lambda exponent: 10.0**exponent),
)
def test_gains_keep_what_they_promise(activation, v):
  """g²·E[φ²] = v, g²·E[φ'²] = 1, g²·Var φ = v, up to rounding."""
  m = moments(activation, v)
  forward, backward, centered = (
    gain(activation, direction, v) ** 2 for direction in DIRECTIONS
  )
  close = lambda wanted: pytest.approx(wanted, rel=8 * np.finfo(float).eps)
  assert forward * m.second_moment == close(v)
  assert backward * m.derivative_second_moment == close(1)
  assert centered * (m.second_moment - m.mean**2) == close(v)


@pytest.mark.parametrize("v", [1e-6, 1.0, 1e6])
def test_a_homogeneous_activation_has_one_gain(v):
  """relu(s·x) = s·relu(x), so v has no influence; He et al. 2015: √2."""
  for direction in ("forward", "backward"):
    assert gain(jax.nn.relu, direction, v) == pytest.approx(
      math.sqrt(2), rel=1e-12
    )


def test_the_facade_has_it():
  assert initjax.gain is gain


def test_a_jump_has_no_backward_gain():
  step = lambda x: jnp.where(x > 0.3, 1.0, 0.0)
  box = lambda x: jnp.where(abs(x) < 0.3, 1.0, 0.0)
  for activation in (step, box, jnp.sign, jnp.round):
    assert math.isfinite(gain(activation))
    with pytest.raises(ValueError, match=r"jumps .* use direction='forward'"):
      gain(activation, "backward")


def test_a_constant_has_no_gain():
  for activation, directions in (
    (jnp.zeros_like, DIRECTIONS),
    (jnp.ones_like, ("backward", "centered")),
    (lambda x: jnp.full_like(x, 0.1), ("centered",)),
  ):
    for direction in directions:
      with pytest.raises(ValueError, match=f"the {direction} moment is 0"):
        gain(activation, direction)


@pytest.mark.parametrize("direction", ["fan_in", "Forward", None])
def test_unknown_directions_are_listed(direction):
  with pytest.raises(
    ValueError, match=r"direction must be one of 'forward', .*; got"
  ):
    gain(jnp.tanh, direction)


@pytest.mark.parametrize(
  "variance", [0, -1.0, math.nan, math.inf, "one", [1.0, 2]]
)
def test_variance_is_a_positive_number(variance):
  with pytest.raises(ValueError, match=r"variance must be a .*number.*; got"):
    gain(jnp.tanh, variance=variance)


LINEAR = ["linear", "sigmoid"]
LINEAR += [f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)]
REFUSED = [
  (("gelu",), "no gain for 'gelu', only for"),
  (("RELU",), "no gain for 'RELU'"),
  (("leaky_relu", True), "must be the negative slope; got True"),
  (("leaky_relu", "0.1"), "must be the negative slope; got '0.1'"),
]


@pytest.mark.slow
def test_torch_gain_equals_torch():
  """And refuses what it refuses, in words of its own."""
  torch = pytest.importorskip("torch", reason="the oracle of torch_gain")
  names = [*LINEAR, "tanh", "relu", "leaky_relu", "selu"]
  cases = [(name,) for name in names]
  for slope in (0, 0.2, 1, -3.5):
    cases += [("leaky_relu", slope), ("relu", slope)]
  for case in cases:
    assert torch_gain(*case) == torch.nn.init.calculate_gain(*case)
  for case, _ in REFUSED:
    with pytest.raises(ValueError):  # noqa: PT011 (the words are PyTorch's)
      torch.nn.init.calculate_gain(*case)


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_torch_gain_refuses(arguments, message):
  with pytest.raises(ValueError, match=message):
    torch_gain(*arguments)


@pytest.mark.parametrize(
  ("activation", "in_torch", "exact"),
  [
    (jnp.tanh, 5 / 3, 1.59254),
    (jax.nn.selu, 0.75, 1.0),
    (jax.nn.sigmoid, 1.0, 1.84623),
    (jax.nn.relu, math.sqrt(2), 1.41421),
  ],
)
def test_torch_gain_is_not_the_exact_gain(activation, in_torch, exact):
  """The numbers that its docstring tells, to the digits shown."""
  assert torch_gain(activation.__name__) == in_torch
  assert gain(activation) == pytest.approx(exact, abs=5e-6)


def test_torch_gain_of_linear_and_leaky_layers_is_exact():
  assert {torch_gain(name) for name in LINEAR} == {1.0}
  assert torch_gain("relu", 0.2) == math.sqrt(2)
  for slope in (0, 0.2, 1, -3.5):
    leaky = lambda x, a=slope: jax.nn.leaky_relu(x, a)
    found = torch_gain("leaky_relu", slope)
    assert found == pytest.approx(gain(leaky), rel=1e-12)
  default = gain(jax.nn.leaky_relu)
  assert torch_gain("leaky_relu") == pytest.approx(default, rel=1e-12)
