"""Eight CPU devices, an order, and compilation that does not dawdle."""

import importlib.metadata
import os
import pathlib
import shutil
import tempfile

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # workers fill the cores already
# Tests spend their time in XLA's compiler. LLVM's third level takes ten times
# as long as its second for what draws random numbers for many seeds at once;
# XLA's newer emitters, all that jaxlib 0.12 has, twice as long as the older.
XLA_FLAGS = [
  "--xla_force_host_platform_device_count=8",
  "--xla_backend_optimization_level=2",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):
  XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
given = os.environ.get("XLA_FLAGS", "").split()  # workers inherit them
given += [flag for flag in XLA_FLAGS if flag not in given]
os.environ["XLA_FLAGS"] = " ".join(given)
# What one process has compiled, another need not: workers, their children, and
# the next run, if that has the same JAX and says where. Nothing depends on it.
CACHE = "JAX_COMPILATION_CACHE_DIR"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

collect_ignore_glob = ["*/conftest.py"]  # no doctests; two of one name
HERE = pathlib.Path(__file__).parent
LAWS = ("gains", "initializers", "meanfield", "stacks")


def pytest_configure(config):
  if CACHE not in os.environ:
    config.cache_of_programs = os.environ[CACHE] = tempfile.mkdtemp()


def pytest_unconfigure(config):
  shutil.rmtree(getattr(config, "cache_of_programs", ""), ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def _compile_for_one_run(request):
  """Half the time of XLA, but for what computes long or compares last bits."""
  import jax  # once the environment says how

  lasting = {*LAWS, "experiments", "init_variables_test.py", "rules_test.py"}
  optimized = bool(lasting & {*request.path.parts})
  if getattr(request.session, "is_optimized", None) is not optimized:
    request.session.is_optimized = optimized
    jax.config.update("jax_disable_most_optimizations", not optimized)
    jax.clear_caches()  # programs do not remember how they were compiled


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
  """Laws first: one that fails shows early. Doctests, short files, last."""
  items.sort(key=_place)


def _place(item):
  if HERE not in item.path.parents:
    return len(LAWS) + 1
  folder = item.path.relative_to(HERE).parts[0]
  return LAWS.index(folder) if folder in LAWS else len(LAWS)
