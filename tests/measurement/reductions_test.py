"""Parameters that are split are asked on their devices, as by NumPy."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax import _sharding
from initjax.graph._graph import Computed
from initjax.measurement import _leaves, _reductions
from initjax.measurement._reductions import row_moments
from initjax.testing import _orthogonal

P = jax.sharding.PartitionSpec
RNG = np.random.default_rng(0)
BATCH, IN, OUT = 4, 32, 16
LEAF = RNG.normal(size=(BATCH, IN, OUT)).astype(np.float32)
LEAF[1] = LEAF[0]  # one key for two layers
LEAF[2, :, 3] = LEAF[2, :, 5]  # and equal units
SCALE = Computed("add", (Computed("square", ("leaf",)), 1.0))


def copied(leaf):
  return (3 * leaf).astype(leaf.dtype)


QUESTIONS = {
  "mean square": _reductions.mean_square,
  "mean and std": _reductions.mean_and_std,
  "finite": _reductions.is_finite,
  "zero": _reductions.is_zero,
  "one row": lambda x: _leaves._moments_at(x, (1,)),
  "sample": functools.partial(_reductions.sample, most=64),
  "of a layer": functools.partial(_reductions.sample, most=8, axes=(1, 2)),
  "head": functools.partial(_reductions.head, most=100),
  "slices": functools.partial(_reductions.slice_samples, axis=1, most=8),
  "last": functools.partial(_reductions.slice_samples, axis=2, most=8),
  "random": _leaves.is_random,
  "columns": functools.partial(_reductions.fingerprints, ins=(1,)),
  "few": functools.partial(_reductions.fingerprints, ins=(1,), most=3),
  "rows": functools.partial(_reductions.has_equal_rows, ins=(1,)),
  "equal": lambda x: _reductions.are_equal(x, x),
  "beside": lambda x: _reductions.beside(x, copied(x))[0] < 0.01,
  "scale": lambda x: _leaves.mean_square_at({"leaf": x}, SCALE),
  "orthogonal": lambda x: _sharding.reduced(
    _orthogonal._gram_error, x, groups=((0,), (1,), (2,)), scale=None
  ),
}


def split(leaf, spec, kind="Auto"):
  mesh = jax.make_mesh(
    (8,), ("d",), axis_types=(getattr(jax.sharding.AxisType, kind),)
  )
  return jax.device_put(leaf, jax.NamedSharding(mesh, spec))


@pytest.mark.parametrize("name", QUESTIONS)
def test_devices_say_what_numpy_says(name):
  wanted = QUESTIONS[name](LEAF)
  found = QUESTIONS[name](split(LEAF, P(None, "d")))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-9)
  jax.tree.map(close, found, wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64"])
def test_bits_and_sums_of_other_dtypes(dtype):
  leaf = LEAF.astype(dtype)
  names = ("columns", "mean square", "sample")
  wanted = [QUESTIONS[name](leaf) for name in names]
  given = split(leaf, P(None, None, "d"), "Explicit")
  found = [QUESTIONS[name](given) for name in names]
  jax.tree.map(np.testing.assert_allclose, found, wanted)


def test_columns_are_told_apart_by_their_bits():
  columns, alive = _reductions.fingerprints(LEAF, (1,))
  assert (columns[0] == columns[1]).all()
  assert alive.all()
  distinct = {column.tobytes() for layer in LEAF for column in layer.T}
  assert len(np.unique(columns)) == len(distinct)
  swapped, _ = _reductions.fingerprints(LEAF[:, ::-1], (1,))
  assert not np.isin(swapped, columns).any()
  powers = np.float32(2) ** np.arange(-60, 60)[None, None]  # few bits differ
  assert len(np.unique(_reductions.fingerprints(powers, (1,))[0])) == 120


@pytest.mark.parametrize("spec", [P("d"), P(None, "d"), P(None, None, "d")])
def test_no_device_gathers_the_leaf(spec):
  """What they send each other is less than one device has."""
  leaf = split(np.ones((8, 64, 64), np.float32), spec)
  everywhere = jax.NamedSharding(leaf.sharding.mesh, P())
  part = leaf.size // 8

  def every_number(x):
    return (
      _reductions._mean_square(x),
      _reductions._mean_and_std(x),
      _reductions._is_finite(x),
      _reductions._row_moments(x, 1),
      _reductions._sample(x, 256, (0, 1, 2)),
      _reductions._head(x, 256),
      _reductions._slice_samples(x, 1, 4),
      _reductions._fingerprints(x, (1,), None),
      _reductions._has_equal_rows(x, (1,)),
    )

  with jax.enable_x64(True):
    run = jax.jit(every_number, out_shardings=everywhere)
    text = run.lower(leaf).compile().as_text()
  sent = re.findall(r"= (.*) (?:all|reduce|collective)[a-z-]+\(", text)
  assert sent
  for kinds in sent:
    for shape in re.findall(r"\[([\d,]*)\]", kinds):
      assert math.prod(map(int, filter(None, shape.split(",")))) < part


def test_split_leaves_stay_where_they_are():
  """Also on the devices of one process; what one of them has is NumPy's."""
  tree = {"split": split(LEAF, P(None, "d")), "whole": split(LEAF, P())}
  found = _leaves.leaves_of(tree)
  assert found["split"] is tree["split"]
  assert isinstance(found["whole"], np.ndarray)


def test_numbers_alone_are_fetched(monkeypatch):
  """No process has a part of them alone, or so it is told."""
  is_here = lambda x: not isinstance(x, jax.Array)
  monkeypatch.setattr(_sharding, "is_here", is_here)
  tree = {"a": split(jnp.arange(8.0), P("d")), "b": None, "c": 1.0}
  found = _sharding.fetched(tree)
  assert found["a"].tolist() == list(range(8))
  assert float(found["c"]) == 1


@pytest.mark.parametrize("axes", [0, 1])
@pytest.mark.parametrize("shape", [(3, 70_001), (90_000, 2), (5, 40, 1000)])
def test_moments_by_blocks_are_those_of_the_whole(shape, axes):
  """In float64, to rounding; blocks are parts of rows, or several rows."""
  x = np.random.default_rng(0).normal(1, 2, shape).astype(np.float32)
  size, shift = row_moments(x, axes)
  rest = tuple(range(axes, x.ndim))
  np.testing.assert_allclose(size, (x.astype(float) ** 2).mean(rest), 1e-12)
  np.testing.assert_allclose(shift, x.astype(float).mean(rest) ** 2, 1e-11)
