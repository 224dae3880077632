"""What `import initjax` may load, and that the facade holds what it names."""

import subprocess
import sys

import initjax

HEAVY = ("flax", "optax", "chex", "scipy.integrate", "matplotlib", "rich")
SCRIPT = f"""
import sys, initjax
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded

import jax
local_devices = jax.local_devices
def without_cpu(*args, backend=None, **kwargs):
  if backend == "cpu":
    raise RuntimeError("Unknown backend cpu")
  return local_devices(*args, backend=backend, **kwargs)
jax.local_devices = without_cpu
try:
  initjax.gain(jax.nn.relu)
except RuntimeError as error:
  assert "JAX_PLATFORMS" in str(error), error
else:
  raise AssertionError("no error")
"""


def test_import_is_light_and_gain_needs_no_backend_but_the_cpu():
  """With JAX_PLATFORMS naming no CPU the error says what to set."""
  subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_facade_holds_what_it_names():
  for name in initjax.__all__:
    assert hasattr(initjax, name), name
