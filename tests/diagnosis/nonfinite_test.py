"""NaN and infinities: what they arise in, which way, and what mends them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sick import kinds, verdict
from small_models import X, two_layer_params, two_layers

from initjax.diagnosis import diagnose
from initjax.diagnosis._first_nan import first_nan
from initjax.diagnosis._observe import Call

P = np.float32([0.0, 1.0, 2.0])


def rooted(p):
  return jnp.sqrt(p**2)


def in_scan(p):
  return jax.lax.scan(lambda c, q: (c + rooted(q), None), 0.0, p)[0]


def in_cond(p):
  return jax.lax.cond(p[1] > 0, rooted, jnp.sin, p)


def found(model, *, in_signal=False):
  call = Call(lambda p, x: model(p), P, (P,), {"cotangent": None})
  return first_nan(call, in_signal=in_signal)


@pytest.mark.parametrize(
  ("model", "numbers"),
  [
    (lambda p: (p - 2) / (p - 2), (0.0, 0.0)),
    (lambda p: jnp.log(p), (0.0,)),
    (lambda p: jnp.sqrt(p - 1), (-1.0,)),
    (lambda p: p * jnp.log(p), (0.0, -np.inf)),
  ],
  ids=["div", "log", "sqrt", "mul"],
)
def test_a_pole_in_the_signal(model, numbers, request):
  origin = found(model, in_signal=True)
  assert (origin.name, origin.in_gradient) == (request.node.callspec.id, False)
  np.testing.assert_allclose(origin.operands, numbers)
  assert origin.line.place.startswith("nonfinite_test.py:")


@pytest.mark.parametrize(
  ("model", "slope"),
  [
    (rooted, "sqrt"),
    (jax.jit(rooted), "sqrt"),
    (jax.checkpoint(rooted), ""),  # remat has a jaxpr of its own
    (in_scan, ""),  # as have loops, which go back through another one
    (in_cond, ""),
    (lambda p: jnp.linalg.norm(0 * p), "sqrt"),
    (lambda p: jnp.where(p > 0, jnp.log(p), 0.0), "log"),
  ],
  ids=["plain", "jit", "remat", "scan", "cond", "norm", "where"],
)
def test_a_pole_in_the_gradient(model, slope):
  """The slopes ½/√0 and 1/0, times 0, where the signal is finite."""
  origin = found(model)
  assert origin.in_gradient
  assert (origin.root.name, origin.root.operands[1]) == ("div", 0.0)
  if slope:
    assert origin.root.slope_of == slope
  assert origin.root.line.place.startswith("nonfinite_test.py:")


def test_what_is_discarded_is_not_to_blame():
  safe = lambda p: jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), 0.0)
  assert found(safe) is None
  dropped = lambda p: jnp.where(p > 1, jnp.sqrt(p - 1.5), 0.0)
  origin = found(lambda p: dropped(p) + (p - 2) / (p - 2), in_signal=True)
  assert origin.name == "div"


def test_the_cure_of_a_pole_is_no_initializer():
  report = diagnose(
    lambda p, x: two_layers(p, x) + jnp.linalg.norm(x[0] - x[0] + p["bias"]),
    two_layer_params(),
    X,
  )
  sick = verdict(report, "non-finite gradient")
  assert (
    "0.5 / 0 = ∞, the slope of `sqrt`, at nonfinite_test.py:" in sick.message
  )
  assert "float32" not in sick.message
  assert "jnp.where(x > 0" in sick.fix
  assert "kernel_init" not in sick.fix


def test_a_row_that_is_masked_as_a_whole():
  mask = np.arange(32)[:, None] > np.arange(32)

  def attention(params, x):
    scores = jnp.where(mask, x @ params["in"] @ x.T, -jnp.inf)
    return jax.nn.softmax(scores) @ (x @ params["out"])

  sick = verdict(
    diagnose(attention, two_layer_params(), X), "non-finite signal"
  )
  assert "-∞ - -∞ = NaN" in sick.message
  assert "constant of the model, such as a mask" in sick.message
  assert "jnp.finfo(x.dtype).min" in sick.fix


def test_ids_beyond_the_vocabulary_explain_the_rest():
  embed = nn.Embed(8, 64)

  def model(params, ids):
    return two_layers(params, embed.apply({"params": params["embed"]}, ids))

  params = two_layer_params(embed={"embedding": X[:8]})
  report = diagnose(model, params, np.arange(4, 9))
  assert kinds(report) == {"ids beyond the vocabulary": "error"}
  assert "asks for index 8 in a table of 8" in report.verdicts[0].message
  assert not diagnose(model, params, np.arange(3, 8)).verdicts
