"""What every test of `calibrate` checks: that `measure` finds the target."""

import jax
import jax.numpy as jnp
import numpy as np

import initjax
from initjax.schemes import calibrate


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


def statistics_of(fn, params, *inputs, statistic="second_moment"):
  """Of each operation and repeat, in the order of execution."""
  report = jax.jit(lambda p, i: initjax.measure(fn, p, *i))(params, inputs)
  rows = report.forward
  found = []
  for index, repeat in report.graph.rows():
    moment = 2.0 ** float(rows[index].log2_second_moment[repeat])
    mean = float(rows[index].mean[repeat])
    found.append(moment if statistic == "second_moment" else moment - mean**2)
  return np.array(found)


def check(fn, params, *inputs, rtol, skipped=(), target=1.0, **options):
  """Calibrates, measures, and returns (params, info).

  Args:
    skipped: the (path, repeat) that may have another statistic: these and no
      others have to be listed.
  """
  after, info = jax.jit(
    lambda p, i: calibrate(fn, p, *i, target=target, **options)
  )(params, inputs)
  listed = [(path, repeat) for path, repeat, _ in info.skipped]
  assert listed == list(skipped), info.skipped
  statistic = options.get("statistic", "second_moment")
  found = statistics_of(fn, after, *inputs, statistic=statistic)
  calibrated = [op.reason == "calibrated" for op in info.operations]
  np.testing.assert_allclose(found[calibrated], target, rtol=rtol)
  assert jax.tree.structure(after) == jax.tree.structure(params)
  return after, info
