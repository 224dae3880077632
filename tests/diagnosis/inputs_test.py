"""An input that explains what is seen is named, and what it explains is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sick import kinds, verdict
from small_models import X, normal, two_layer_params, two_layers

from initjax.diagnosis import diagnose

ONE = X[:1]
PIXELS = np.random.default_rng(0).integers(0, 256, X.shape)


@pytest.mark.parametrize(
  ("kind", "x"),
  [
    ("input of zeros", np.zeros_like(X)),
    ("constant input", np.ones_like(X)),
    ("repeated sample", np.repeat(ONE, 32, axis=0)),
    ("input of rank one", normal(32, 1, seed=4) * ONE),
    ("unscaled input", np.float32(PIXELS)),
    ("unscaled input", PIXELS.astype(np.uint8)),
  ],
)
def test_a_wrong_input_is_all_that_is_said(kind, x):
  """The model is healthy: what is seen comes of its input."""
  report = diagnose(two_layers, two_layer_params(), x)
  assert kinds(report) == {kind: "warning"}


def test_nan_in_the_input_explains_all_nan():
  x = X.copy()
  x[3, 5] = np.nan
  found = kinds(diagnose(two_layers, two_layer_params(), x))
  assert found == {"non-finite input": "error"}


def test_one_sample_is_a_note():
  report = diagnose(two_layers, two_layer_params(), ONE)
  assert kinds(report) == {"one sample": "note"}


def test_what_the_input_does_not_explain_is_still_said():
  """Half of the units are off on a repeated sample by chance, but not all."""
  report = diagnose(two_layers, two_layer_params(-1e4), np.ones_like(X))
  assert kinds(report)["signal is cut off"] == "warning"
  assert kinds(report)["dead units"] == "error"


def scaled(params, x):
  return two_layers(params, x.astype(jnp.float32) / 127.5 - 1)


def normalized(params, x):
  return two_layers(params, jax.nn.standardize(x.astype(jnp.float32)))


@pytest.mark.parametrize("model", [scaled, normalized])
def test_a_model_may_scale_its_input_itself(model):
  x = PIXELS.astype(np.uint8)
  assert not diagnose(model, two_layer_params(), x).verdicts


def test_masks_positions_and_states_beside_data_are_no_data():
  def model(params, x, state, mask, positions):
    h = two_layers(params, x + state)
    return jnp.where(mask, h + positions, 0.0)

  others = np.zeros_like(X), np.ones((32, 1), bool), np.arange(64.0)[None]
  assert not diagnose(model, two_layer_params(), X, *others).verdicts


def test_two_numbers_a_sample_are_no_matrix():
  """Coordinates of a plane may well lie on a line through the origin."""
  params = two_layer_params(**{"in": normal(2, 64, seed=4)})
  x = normal(32, 1, seed=5) * np.ones((1, 2), np.float32)
  assert not diagnose(two_layers, params, x).verdicts


def test_which_input_is_meant_is_said():
  model = lambda p, x, y: two_layers(p, x + y)
  report = diagnose(model, two_layer_params(), 0 * X, 0 * X)
  assert "(0, 1)" in verdict(report, "input of zeros").message
