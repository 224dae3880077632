"""One path for every parameter, whatever tree it is in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initjax
from initjax._paths import leaves_by_path, matches, paths_of, short_path


class Block(nn.Module):
  @nn.compact
  def __call__(self, x):
    boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "m"))
    return nn.Dense(2, kernel_init=boxed)(x)


def test_boxes_are_no_part_of_a_path_and_fields_are():
  """Of the same names; only a box is dropped, by its type."""
  x = jnp.ones((1, 3))
  linen = Block().init(jax.random.key(0), x)
  assert paths_of(linen) == ["params/Dense_0/bias", "params/Dense_0/kernel"]
  layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
  module = nnx.Sequential(layer, nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
  found = [path for path in paths_of(nnx.state(module)) if "rngs" not in path]
  assert found == ["layers/0/bias", "layers/0/kernel"]
  assert paths_of(layer.kernel) == ["."]
  eqx = pytest.importorskip("equinox")

  class Scale(eqx.Module):
    value: jax.Array

  assert paths_of({"scale": Scale(x)}) == ["scale/value"]


def test_paths_follow_the_leaves_and_are_told_apart():
  tree = {"a/b": {"c": 1.0}, "a": {"b/c": 2.0, "d": [3.0, None]}, "e": (4.0,)}
  paths = paths_of(tree)
  assert paths == ["a/b/c", "a/d/0", "a/b/c#2", "e/0"]
  assert list(leaves_by_path(tree).values()) == jax.tree.leaves(tree)
  assert paths_of(np.ones(2)) == ["."]
  taken = {"a/b": 1.0, "a": {"b": 2.0, "b#2": 3.0}}
  assert len(leaves_by_path(taken)) == 3


def test_what_a_report_prints_can_be_pasted():
  """Into rules, into a graph, into assertions: whole, or as tables show it."""
  model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(4)])
  x = np.ones((3, 4), np.float32)
  params = model.init(jax.random.key(0), x)
  report = initjax.diagnose(model.apply, params, x)
  for record in report.to_records():
    for path in (record["path"], short_path(record["path"])):
      assert matches(path, record["path"], None)
      assert report.graph[path].path == record["path"]
      plan = initjax.rules([(path, 2.0)]).plan(params)
      chosen = [row.path for row in plan.rows if row.rule is not None]
      assert chosen == [record["path"]]
