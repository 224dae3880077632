"""What every test of `calibrate` checks: that `measure` finds the target."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import initjax
from initjax.model_init import calibrate


def tolerance(fan_in, depth=1, dtype=jnp.float32):
  """Of a second moment after `depth` layers in a row.

  A sum of n products w·x is rounded by about √n·u·Σ|w·x| (Higham & Mary 2019),
  and Σ|w·x| is up to √n times the sum's own size: n·u in all. Kernel, factor,
  statistic and product add a few u. The pass and the run with the returned
  kernels round differently, so each layer adds that to the relative difference
  between their signals, which a second moment doubles.
  """
  unit = float(jnp.finfo(dtype).eps) / 2
  return 2 * depth * (fan_in + 8) * unit


@functools.partial(
  jax.jit, static_argnums=0, static_argnames=("statistic", "tied")
)
def _program(fn, params, *inputs, **options):
  after, info = calibrate(fn, params, *inputs, **options)
  report = initjax.measure(fn, after, *inputs)
  return after, info, report.forward


def run(fn, params, *inputs, target=1.0, **options):
  """Parameters, info, and the statistics that `measure` finds with these.

  One program for each `fn`, as arrays; statistics of each operation and repeat
  stand in the order of execution.
  """
  made = _program(fn, params, *inputs, target=target, **options)
  after, info, rows = jax.device_get(made)
  found = []
  for index, _, repeat in info.graph.rows:
    moment = 2.0 ** float(rows[index].log2_second_moment[repeat])
    mean = float(rows[index].mean[repeat])
    centered = options.get("statistic") == "variance"
    found.append(moment - mean**2 if centered else moment)
  return after, info, np.array(found)


def check(fn, params, *inputs, rtol, skipped=(), target=1.0, **options):
  """Runs, compares with the target, and returns (params, info).

  Args:
    skipped: the (path, repeat) that may have another statistic: these and no
      others have to be listed.
  """
  after, info, found = run(fn, params, *inputs, target=target, **options)
  listed = [(path, repeat) for path, repeat, _ in info.skipped]
  assert listed == list(skipped), info.skipped
  calibrated = [op.reason == "calibrated" for op in info.operations]
  np.testing.assert_allclose(found[calibrated], target, rtol=rtol)
  assert jax.tree.structure(after) == jax.tree.structure(params)
  return after, info


def reasons(info):
  return [op.reason.split(":")[0] for op in info.operations]
