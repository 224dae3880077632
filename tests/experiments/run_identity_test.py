"""A run finds its items again if nothing that they depend on has changed."""

import contextlib
import types

import jax
import numpy as np
import pytest

from experiments.data import datasets
from experiments.runtime import run_identity

FIRST = run_identity.identity("small", {"seed": 0})
XLA = "--xla_cpu_enable_fast_math"


def devices(count=8, kind="cpu", platform="cpu", version="cpu"):
  client = types.SimpleNamespace(platform_version=version)
  one = types.SimpleNamespace(
    platform=platform, device_kind=kind, client=client
  )
  return [one] * count


def configured(name, value):
  """A setting of JAX for a while."""

  @contextlib.contextmanager
  def change(monkeypatch):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    yield
    jax.config.update(name, before)

  return change


def environment(name, value):
  def change(monkeypatch):
    monkeypatch.setenv(name, value)
    return contextlib.nullcontext()

  return change


def on(**facts):
  def change(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: devices(**facts))
    return contextlib.nullcontext()

  return change


def with_version_of(package):
  def change(monkeypatch):
    real = run_identity.metadata.version
    other = lambda name: "0" if name == package else real(name)
    monkeypatch.setattr(run_identity.metadata, "version", other)
    return contextlib.nullcontext()

  return change


CHANGES = {
  "x64": configured("jax_enable_x64", True),
  "matmul": configured("jax_default_matmul_precision", "float32"),
  "precision within a block": lambda _: jax.default_matmul_precision("highest"),
  "generator": configured("jax_default_prng_impl", "rbg"),
  "partitionable": configured("jax_threefry_partitionable", False),
  "promotion": configured("jax_numpy_dtype_promotion", "strict"),
  "seeds": configured("jax_random_seed_offset", 1),
  "no jit": configured("jax_disable_jit", True),
  "XLA": environment("XLA_FLAGS", f"{XLA}=true"),
  "XLA, another value": environment("XLA_FLAGS", f"{XLA}=false"),
  "libtpu": environment("LIBTPU_INIT_ARGS", "--xla_tpu_x=1"),
  "TF32": environment("NVIDIA_TF32_OVERRIDE", "0"),
  "one device": on(count=1),
  "seven devices": on(count=7),
  "kind": on(kind="NVIDIA H200", platform="gpu"),
  "another kind": on(kind="TPU v5 lite", platform="tpu"),
  "another libtpu": on(kind="TPU v5 lite", platform="tpu", version="new"),
  **{name: with_version_of(name) for name in ("jax", "jaxlib", "flax")},
}


def identity_after(change):
  with pytest.MonkeyPatch.context() as monkeypatch, change(monkeypatch):
    return run_identity.identity("small", {"seed": 0})


def test_each_setting_has_its_own_name():
  found = {name: identity_after(change) for name, change in CHANGES.items()}
  others = {
    "as before": run_identity.identity("small", {"seed": 0}),
    "config": run_identity.identity("small", {"seed": 1}),
    "experiment": run_identity.identity("large", {"seed": 0}),
  }
  assert others["as before"] == FIRST
  assert len({*found.values(), *others.values()}) == len(found) + len(others)


@pytest.mark.parametrize(
  "change",
  [
    on(),
    configured("jax_log_compiles", True),
    configured("jax_compilation_cache_dir", "/elsewhere"),
    environment("XLA_FLAGS", "--xla_force_host_platform_device_count=8"),
    environment("XLA_FLAGS", "--xla_dump_to=/elsewhere --xla_dump_hlo_as_text"),
    environment("INITJAX_DATA_DIR", "/elsewhere"),
  ],
)
def test_what_changes_no_number_keeps_the_name(monkeypatch, change):
  monkeypatch.delenv("XLA_FLAGS")
  plain = run_identity.identity("small", {"seed": 0})
  assert identity_after(change) == plain


def test_flags_are_compared_by_what_they_mean(tmp_path, monkeypatch):
  """Their order means nothing, unless one is given twice; a file is read."""
  file = tmp_path / "flags"
  file.write_text("--b=2\n--a=1\n")
  given = "--a=1 --b=2", "--b=2  --a=1", "--a=2 --b=2 --a=1", str(file)
  assert len({identity_after(environment("XLA_FLAGS", x)) for x in given}) == 1
  given = *given, "--a=2 --b=2", "--a=1 --b=2 --a=2", "--a=1"
  assert len({identity_after(environment("XLA_FLAGS", x)) for x in given}) == 3


def test_other_data_are_another_run(tmp_path, monkeypatch):
  """One pixel of one image is enough."""
  monkeypatch.setenv(datasets.DATA_DIR, str(tmp_path))
  found = []
  for pixel in (0, 0, 1):
    images = np.zeros((3, 28, 28), np.uint8)
    images[-1, -1, -1] = pixel
    labels = np.arange(3, dtype=np.uint8)
    np.savez(
      tmp_path / "mnist.npz", x_train=images, y_train=labels, x_test=images[:2],
      y_test=labels[:2],
    )  # fmt: skip
    found.append(datasets.fingerprint("mnist"))
  assert found[0] == found[1] != found[2]
  config = {"dataset": "mnist"}
  assert run_identity.identity("small", config, found[1]) != (
    run_identity.identity("small", config, found[2])
  )


def test_types_and_shapes_are_part_of_the_data(monkeypatch):
  """Not only their bytes, which are the same here."""
  found = set()
  for dtype, shape in ((np.uint8, (2, 4, 2)), (np.int8, (2, 4, 2)),
                       (np.uint8, (2, 2, 4))):  # fmt: skip
    part = np.zeros(shape, dtype), np.zeros(2, np.uint8)
    both = types.SimpleNamespace(train=part, test=part)
    load = lambda *_, both=both: both
    monkeypatch.setattr(datasets.image_files, "load_images", load)
    found.add(datasets.fingerprint("mnist"))
  assert len(found) == 3
