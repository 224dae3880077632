"""Reports, plans and graphs are values: they can be sent to other processes."""

import copy
import functools
import pickle
import subprocess
import sys

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import KEY, normal

import initjax
from initjax.graph import _primitives, _recovered

X = normal(16, 8)
Z = np.linspace(-2, 2, 9, dtype=np.float32)


def half(h):
  return (h.astype(jnp.bfloat16) ** 3 + jnp.bfloat16(0.3)).astype(jnp.float32)


def dropped(h):
  mask = jax.random.bernoulli(KEY, 0.5, h.shape)
  return jnp.where(mask, h / 0.5, 0)


ACTIVATIONS = [
  jax.nn.relu,  # with a derivative rule of its own
  jax.nn.gelu,
  jax.nn.silu,
  lambda h: jnp.tanh(2 * h),
  half,
  dropped,
  lambda h: jnp.round(h, 1),
]
KERNELS = [normal(8, 8, variance=1 / 8, seed=i) for i in range(9)]


def of_all(kernels, x):
  first, *between, last = kernels
  x = x @ first
  for activation, kernel in zip(ACTIVATIONS, between, strict=True):
    x = activation(x) @ kernel
  residual = lambda h, kernel: (h + jnp.tanh(h) @ kernel / 3, None)
  x, _ = jax.lax.scan(residual, x @ last, 0.5 * jnp.stack([last, last]))
  return x @ (last[:, ::-1].T * 0.5)  # a view of two uses


def model(kernels, x):
  return jax.nn.relu(jax.nn.relu(x @ kernels[0]) @ kernels[1]) @ kernels[2]


@functools.cache
def results():
  """Of each verb, on one model."""
  _, info = initjax.calibrate(model, KERNELS, X)
  return {
    "graph": initjax.signal_graph(of_all, KERNELS, X),
    "report": initjax.diagnose(model, KERNELS, X),
    "measured": initjax.measure_and_grad(model, KERNELS, X),
    "plan": initjax.plan_init(model, KERNELS, X),
    "prediction": initjax.predict(model, KERNELS, X),
    "calibration": info,
    "spectrum": initjax.jacobian_spectrum(model, KERNELS, X),
  }


COPIES = {
  "pickle": lambda value: pickle.loads(pickle.dumps(value)),
  "cloudpickle": lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
  "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("by", COPIES)
def test_all_results_survive(by):
  again = COPIES[by](results())
  for name, value in results().items():
    assert str(again[name]) == str(value), name
    assert type(again[name]) is type(value)
    assert jax.tree.structure(again[name]) == jax.tree.structure(value)
    jax.tree.map(np.testing.assert_array_equal, again[name], value)
  records, wanted = (each["report"].to_records() for each in (again, results()))
  assert repr(records) == repr(wanted)  # NaN is not equal to itself


@pytest.mark.parametrize("by", COPIES)
def test_activations_are_equal_and_compute_the_same(by):
  graph = results()["graph"]
  again = COPIES[by](graph)
  assert again == graph
  assert hash(again) == hash(graph)
  for op, other in zip(graph, again, strict=True):
    if op.activation is not None:
      assert repr(other.activation) == repr(op.activation)
      np.testing.assert_array_equal(other.activation(Z), op.activation(Z))
      np.testing.assert_array_equal(
        jax.vmap(jax.grad(other.activation))(Z),
        jax.vmap(jax.grad(op.activation))(Z),
      )
  assert sum(op.activation is not None for op in graph) == len(ACTIVATIONS) + 2


def test_every_elementwise_primitive_is_found_by_its_name():
  steps = _primitives.ELEMENTWISE - _recovered.IDENTITIES
  assert steps <= set(_recovered._primitives())


SCRIPT = """
import pickle, sys
import numpy as np
with open(sys.argv[1], "rb") as file:
  report, plan, z, values = pickle.load(file)
print(report)
print(plan)
for op, value in zip(report.graph, values, strict=True):
  if value is not None:
    np.testing.assert_array_equal(op.activation(z), value)
"""


@pytest.mark.slow  # another process
def test_another_process_reads_a_report(tmp_path):
  report, plan = results()["report"], results()["plan"]
  values = [
    op.activation and np.asarray(op.activation(Z)) for op in report.graph
  ]
  file = tmp_path / "report.pkl"
  file.write_bytes(pickle.dumps((report, plan, Z, values)))
  command = [sys.executable, "-c", SCRIPT, str(file)]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert done.stdout == f"{report}\n{plan}\n"
