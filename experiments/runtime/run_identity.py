"""The name of a run: the same for the same numbers, and for nothing else.

Items of a run that was stopped are used again under this name alone, so it
holds all that their bits depend on: the config, the content of the data, the
programs, the versions of what computes, the devices, and the settings of JAX
and of its compilers. It holds nothing that changes no number, such as where
files are, caches, logs, or how many processes share the devices.
"""

import collections
import hashlib
import json
import os
import pathlib
import platform
from importlib import metadata
from typing import Any

import jax

import initjax

_PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax", "scipy")

_SETTINGS = (
  "eager_constant_folding", "jax_accurate_erf_inv", "jax_allow_f16_reductions",
  "jax_compiler_enable_remat_pass", "jax_default_device",
  "jax_default_matmul_precision", "jax_default_prng_impl", "jax_disable_jit",
  "jax_disable_most_optimizations", "jax_enable_custom_prng", "jax_enable_x64",
  "jax_exec_time_optimization_effort", "jax_explicit_x64_dtypes",
  "jax_high_dynamic_range_gumbel", "jax_memory_fitting_effort",
  "jax_memory_fitting_level", "jax_numpy_dtype_promotion",
  "jax_optimization_level", "jax_random_seed_offset",
  "jax_softmax_custom_jvp", "jax_threefry_partitionable",
  "jax_use_direct_linearize", "jax_use_hlo_logistic_lowering",
  "jax_use_shardy_partitioner",
)  # fmt: skip
"""those of jax.config that can change a number; no JAX has all of them"""

_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_VARIABLES = ("NVIDIA_TF32_OVERRIDE",)
_HARMLESS = ("--xla_dump_", "--xla_force_host_platform_device_count")
"""flags that write files, or tell the number of devices, which is counted"""


def identity(name: str, *what: Any) -> str:
  """A directory name for a run: its name and a hash of what it depends on.

  >>> identity("vanishing", {"depth": 3}) == identity("vanishing", {"depth": 4})
  False
  """
  digest = hashlib.sha256()
  facts = (what, _versions(), _devices(), _settings())
  digest.update(json.dumps(facts, default=str).encode())
  here = pathlib.Path(__file__).parents[1]
  for root in (here, pathlib.Path(initjax.__file__).parent):
    for path in sorted(root.rglob("*.py")):
      digest.update(path.read_bytes())
  return f"{name}-{digest.hexdigest()[:12]}"


def _versions() -> dict[str, str]:
  versions = {package: metadata.version(package) for package in _PACKAGES}
  return {**versions, "python": platform.python_version()}


def _devices() -> list[Any]:
  """How many of each kind, in all processes, and what compiles for them."""
  kinds = collections.Counter(
    (device.platform, device.device_kind, device.client.platform_version)
    for device in jax.devices()
  )
  return [platform.machine(), sorted(kinds.items())]


def _settings() -> dict[str, Any]:
  settings = {name: getattr(jax.config, name, None) for name in _SETTINGS}
  flags = {name: _flags(os.environ.get(name, "")) for name in _FLAGS}
  variables = {name: os.environ.get(name) for name in _VARIABLES}
  return {**settings, **flags, **variables}


def _flags(given: str) -> list[tuple[str, ...]]:
  """(name, value) in the order of names; of one given twice the last counts.

  XLA takes what begins with no hyphen as the name of a file with flags.
  """
  path = pathlib.Path(given)
  if given and not given.lstrip().startswith("-") and path.is_file():
    given = path.read_text()
  parts = (flag.partition("=") for flag in given.split())
  last = {name: value for name, _, value in parts}
  return sorted(x for x in last.items() if not x[0].startswith(_HARMLESS))
