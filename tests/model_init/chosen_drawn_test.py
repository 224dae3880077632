"""Kernels that data choose are drawn and calibrated as kernels.

The mean square of the outputs y = x·w of one kernel is, over columns w of
variance 1/n, of mean tr(C)/n and variance 2·tr(C²)/n² a column, where C is the
second moment of the inputs that meet it; a truncated normal varies less.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_models import KEY, normal

import initjax

N, IN, OUT, B = 3, 16, 32, 96
X = normal(B, IN)
IDS = np.arange(B, dtype=np.int32) % N
ONE = np.int32(1)
STACK = {"w": np.zeros((N, IN, OUT), np.float32)}
SEVERAL = {name: np.zeros((IN, OUT), np.float32) for name in "abc"}


def switched(p, i):
  return lax.switch(i, [lambda k=k: k for k in p.values()])


def each(choose, p, x, i):
  return jax.vmap(lambda x, i: x @ choose(p, i))(x, i)


def once(choose, p, x, i):
  return x @ choose(p, i)


MODELS = {
  "index": (functools.partial(each, lambda p, i: p["w"][i]), STACK, IDS),
  "task": (functools.partial(once, lambda p, i: p["w"][i]), STACK, ONE),
  "switch": (functools.partial(each, switched), SEVERAL, IDS),
  "branch": (functools.partial(once, switched), SEVERAL, ONE),
  "scaled": (
    functools.partial(once, lambda p, i: 3 * jnp.take(p["w"], i, axis=0)),
    STACK,
    ONE,
  ),
}


def outputs_mean_square(model, params, *inputs):
  report = initjax.measure(model, params, *inputs)
  return [2.0 ** float(one.log2_second_moment) for one in report.forward]


@pytest.mark.parametrize("name", MODELS)
def test_chosen_kernels_keep_the_size_and_are_calibrated_exactly(name):
  model, params, index = MODELS[name]
  drawn = initjax.auto_init(KEY, model, params, X, index)
  (found,) = outputs_mean_square(model, drawn, X, index)
  groups = [X[index == i] for i in range(N)] if index is IDS else [X]
  squares = [x.T @ x / len(x) for x in groups]  # [features, features] each
  mean = np.mean([c.trace() for c in squares]) / IN
  variances = [2 * (c @ c).trace() / IN**2 / OUT for c in squares]
  assert abs(found - mean) < 4 * np.sqrt(np.sum(variances)) / len(squares)
  predicted = initjax.predict(model, drawn, X, index).forward
  factor = 9 if name == "scaled" else 1
  own = np.mean([np.mean(leaf**2) for leaf in drawn.values()]) * factor * IN
  np.testing.assert_allclose(predicted, np.log2(own), atol=1e-5)
  changed, info = initjax.calibrate(model, drawn, X, index)
  assert info.skipped == ()
  (exact,) = outputs_mean_square(model, changed, X, index)
  assert abs(exact - 1) < 1e-5


def test_the_plan_says_that_a_kernel_is_chosen_and_biases_keep_their_values():
  params = {**STACK, "b": np.zeros((N, OUT), np.float32)}
  model = lambda p, x, i: jax.vmap(lambda x, i: x @ p["w"][i] + p["b"][i])(x, i)
  plan = initjax.plan_init(model, params, X, IDS)
  (row,) = plan.rows
  assert (row.path, row.kind, row.std) == ("w", "dot", IN**-0.5)
  assert row.why == f"one of {N} kernels, chosen as it runs"
  assert plan.kept == ("b",)
  drawn = initjax.auto_init(
    KEY, model, params, X, IDS, distribution="orthogonal"
  )
  for kernel in np.asarray(drawn["w"]):  # each is a matrix of its own
    np.testing.assert_allclose(
      kernel @ kernel.T, np.eye(IN) * OUT / IN, atol=1e-4
    )


def test_a_table_and_a_kernel_in_one_leaf_share_a_factor():
  model = lambda p, x, i: (jnp.tanh(p["w"][i]).sum(), x @ p["w"][i])
  params = {"w": normal(N, IN, OUT)}
  changed, info = initjax.calibrate(model, params, X, ONE)
  ratio = changed["w"] / params["w"]
  np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-5)
  reasons = [op.reason for op in info.operations]
  assert len(reasons) == 2
  assert all(reason.startswith("kernel used several") for reason in reasons[1:])


def test_one_hot_rows_are_drawn_as_a_table_whatever_they_are_multiplied_by():
  model = lambda p, i: (4 * jax.nn.one_hot(i, 512)) @ p["table"]
  table = {"table": jax.ShapeDtypeStruct((512, 64), jnp.float32)}
  ids = np.arange(512, dtype=np.int32)
  drawn = initjax.auto_init(KEY, model, table, ids)
  (found,) = outputs_mean_square(model, drawn, ids)
  assert abs(found - 1) < 4 * np.sqrt(2 / (512 * 64))
