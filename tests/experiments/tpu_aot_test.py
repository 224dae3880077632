"""XLA:TPU compiles the experiments for slices that are not here.

Where libtpu is installed or INITJAX_TPU_AOT=1; libtpu is loaded in a process of
its own, for it keeps the accelerator, or its absence, to itself.
"""

import itertools
import json
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from experiments.reproduce import __main__ as reproduce
from experiments.runtime.recording import Program
from experiments.tpu_compile import __main__ as tpu_compile

missing = tpu_compile.obstacle()
needs_libtpu = pytest.mark.skipif(
  bool(missing) and os.environ.get("INITJAX_TPU_AOT") != "1",
  reason=missing or "libtpu is here",
)


@pytest.mark.tpu_aot
@needs_libtpu
def test_all_programs_compile_for_both_slices(tmp_path):
  done = subprocess.run(
    [
      sys.executable, "-m", "experiments.tpu_compile", "--scale=smoke",
      f"--output_dir={tmp_path}",
    ],
    capture_output=True, text=True, check=False,
    env={**os.environ, "XLA_FLAGS": ""},
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  (path,) = tmp_path.glob("*/tpu_compile.json")
  compiled = json.loads(path.read_text())["result"]["compiled"]
  found = {(one["experiment"], one["topology"]) for one in compiled}
  assert found == set(
    itertools.product(reproduce.NAMES, tpu_compile.TOPOLOGIES)
  )
  for one in compiled:
    assert one["flops"] > 0, one
    assert one["arguments"] > 0, one
    assert one["outputs"] > 0, one


def shape_of(leaf):
  return leaf.shape, leaf.sharding.spec


def test_the_batch_is_filled_up_and_spread_and_all_else_is_everywhere():
  """Shapes as `Job.spread` makes them, whatever comes before the batch."""
  devices = jax.devices()
  batch = {
    "key": jax.eval_shape(jax.random.key, 0).update(shape=(5,)),
    "rate": jax.ShapeDtypeStruct((5,), jnp.float32),
  }
  shared = jax.ShapeDtypeStruct((7, 3), jnp.float32)
  program = Program(None, ("tanh", 3, batch, shared))
  name, number, split, whole = tpu_compile.placed(program, devices)
  assert (name, number) == ("tanh", 3)
  spec = jax.sharding.PartitionSpec("runs")
  assert shape_of(split["rate"]) == ((8,), spec)
  assert shape_of(split["key"]) == ((8,), spec)
  assert split["key"].dtype == batch["key"].dtype
  assert shape_of(whole) == ((7, 3), jax.sharding.PartitionSpec())


def test_scalars_alone_are_no_batch():
  scalar = jax.ShapeDtypeStruct((), jnp.float32)
  (placed,) = tpu_compile.placed(Program(None, (scalar,)), jax.devices())
  assert shape_of(placed) == ((), jax.sharding.PartitionSpec())


class Failing:
  """What lowers, but does not compile."""

  def __init__(self, message):
    self.message = message

  def lower(self):
    return self

  def compile(self):
    raise jax.errors.JaxRuntimeError(self.message)


def test_what_is_too_large_for_a_chip_is_told_and_stops_no_other(monkeypatch):
  here = types.SimpleNamespace(devices=jax.devices())
  monkeypatch.setattr(
    tpu_compile.topologies, "get_topology_desc", lambda *_: here
  )
  message = "RESOURCE_EXHAUSTED: 44.75G exceeds 15.75G.\nmore"
  program = Program(Failing(message), ())
  found = tpu_compile.compile_for("xavier", "draw", program, "v5e:2x2")
  assert found.too_large == "RESOURCE_EXHAUSTED: 44.75G exceeds 15.75G."
  fits = found._replace(too_large="", temporary=2**20)
  for drawn in tpu_compile.tables(
    {"libtpu": "0", "size": "tpu", "compiled": [found, fits]}
  ):
    assert list(drawn.columns[-1].cells) == ["too large", "1.00"]
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    tpu_compile.compile_for(
      "xavier", "draw", Program(Failing("INTERNAL"), ()), ""
    )


@pytest.mark.skipif(not missing, reason="libtpu is here")
def test_without_libtpu_one_line_says_what_to_install(tmp_path):
  done = subprocess.run(
    [
      sys.executable, "-m", "experiments.tpu_compile",
      f"--output_dir={tmp_path}",
    ],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 1
  output = done.stdout + done.stderr
  assert "libtpu is not installed: pip install -e '.[tpu]'" in output
  assert "Traceback" not in output
