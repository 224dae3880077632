"""Two processes give, each of them, what one gives: every verb, on loopback."""

import os
import pathlib
import pickle
import socket
import subprocess
import sys

import every_verb
import jax
import numpy as np
import pytest

pytestmark = pytest.mark.slow  # three processes that compile everything
HERE = pathlib.Path(__file__).parent
DEVICES = "--xla_force_host_platform_device_count="


def start(devices, *arguments):
  flags = os.environ["XLA_FLAGS"]
  return subprocess.Popen(
    [sys.executable, HERE / "every_verb.py", *map(str, arguments)],
    env={
      **os.environ,
      "PYTHONPATH": str(HERE.parent),
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # each program is run once
      "XLA_FLAGS": flags.replace(f"{DEVICES}8", f"{DEVICES}{devices}"),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def content(process, path):
  try:
    said, _ = process.communicate(timeout=600)
  except subprocess.TimeoutExpired:
    process.kill()
    raise AssertionError(process.communicate()[0]) from None
  assert process.returncode == 0, said
  return pickle.loads(path.read_bytes())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  """What one process gives, and each of two."""
  directory = tmp_path_factory.mktemp("processes")
  files = [directory / str(number) for number in range(3)]
  alone = content(start(4, files[0]), files[0])
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  both = [start(2, files[i + 1], port, i) for i in range(2)]
  return alone, *map(content, both, files[1:])


@pytest.mark.parametrize(("place", "verb"), every_verb.CASES)
def test_both_find_what_one_finds(found, place, verb):
  alone, *both = found
  wanted = alone["alone", verb]

  def compare(one, other):
    if isinstance(other, str) or other is None:
      assert one == other
    else:
      np.testing.assert_allclose(one, other, atol=1e-3, rtol=1e-3)

  for one in both:
    jax.tree.map(compare, one[place, verb], wanted)


def test_no_process_reads_a_large_leaf(found):
  """But samples of 4096 entries, and numbers for each unit."""
  for one in found[1:]:
    assert 0 < one["largest"] <= 4096 < every_verb.PARAMS["stack"].size / 2
