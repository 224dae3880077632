"""Experiments as processes of their own, for tests."""

import json
import os
import pathlib
import socket
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
DEVICES = "--xla_force_host_platform_device_count="


def start(*arguments, devices=8, directory=None, **environment):
  """The small experiment, in a directory, with its output in pipes."""
  return subprocess.Popen(
    [sys.executable, HERE / "small_experiment.py", *map(str, arguments)],
    env={
      **os.environ,
      "PYTHONPATH": str(ROOT),
      "XLA_FLAGS": os.environ["XLA_FLAGS"].replace(
        f"{DEVICES}8", f"{DEVICES}{devices}"
      ),
      **environment,
    },
    cwd=directory,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process, status=0):
  """Waits for it; (stdout, stderr)."""
  try:
    output, errors = process.communicate(timeout=300)
  except subprocess.TimeoutExpired:
    process.kill()
    raise AssertionError(f"it never ended: {process.communicate()}") from None
  assert process.returncode == status, output + errors
  return output, errors


def wait_for(process, line):
  """Reads what it prints until `line` comes."""
  for found in process.stdout:
    if found.strip() == line:
      return
  raise AssertionError(f"{line} never came: {process.communicate()}")


def content(directory):
  """What the one run in a directory wrote, but for stamps."""
  (path,) = pathlib.Path(directory).glob("small-*/small.json")
  found = json.loads(path.read_text())
  del found["devices"]
  return found


def free_port():
  """A port of this machine that nothing listens to."""
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]
