"""The command line of an experiment."""

import dataclasses
import os
import sys
from typing import Any

from absl import app, flags

from experiments.common import plots
from experiments.data import datasets
from experiments.runtime import results
from experiments.runtime.experiment import SCALES, Experiment


def define(experiment: Experiment) -> None:
  """Those of every experiment, and one for each option of this one."""
  before = set(flags.FLAGS)
  flags.DEFINE_enum("scale", "laptop", SCALES, "Size of the run.")
  flags.DEFINE_string(
    "output_dir", "results", "Where a new directory of results is made: local, "
    "or gs://bucket/path.",
  )  # fmt: skip
  flags.DEFINE_string(
    "checkpoint_dir", None, "Where the done items of a run are kept until its "
    "results are written, so that the same command goes on after a stop "
    "(OUTPUT_DIR/.checkpoints).",
  )  # fmt: skip
  flags.DEFINE_string(
    "data_dir", os.environ.get(datasets.DATA_DIR, ""), "Where mnist or "
    f"cifar10 are (the environment's {datasets.DATA_DIR}).",
  )  # fmt: skip
  flags.DEFINE_bool("profile", False, "Write a trace for XProf or TensorBoard.")
  flags.DEFINE_bool(
    "distributed", False, "Several processes, each with some of the devices; "
    "on Cloud TPU and Slurm they find each other.",
  )  # fmt: skip
  flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, elsewhere.")
  flags.DEFINE_integer("num_processes", None, "Their number, elsewhere.")
  flags.DEFINE_integer("process_id", None, "Which one this is, elsewhere.")
  for field in dataclasses.fields(experiment.config):
    _define(field)
  for name in set(flags.FLAGS) - before:  # so that --help shows them
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def _define(field: Any) -> None:
  """A flag without a value: what is not given is left to the scale."""
  text, choices = field.metadata["text"], field.metadata["choices"]
  default, first = field.default, field.default
  if isinstance(default, tuple):
    default = ",".join(map(str, default))
    first = None
  help_text = f"{text} ({default})"
  if isinstance(first, bool):
    flags.DEFINE_bool(field.name, None, help_text)
  elif isinstance(first, int):
    flags.DEFINE_integer(field.name, None, help_text)
  elif isinstance(first, float):
    flags.DEFINE_float(field.name, None, help_text)
  elif first is None:
    flags.DEFINE_list(field.name, None, help_text)
  elif choices is not None:
    flags.DEFINE_enum(field.name, None, choices, help_text)
  else:
    flags.DEFINE_string(field.name, None, help_text)


def _entries(field: Any, texts: list[str]) -> tuple[Any, ...]:
  """A list of flags' texts as what its entries are."""
  kind = field.metadata["kind"]
  try:
    return tuple(map(kind, texts))
  except ValueError:
    given = ",".join(texts)
    raise ValueError(
      f"{field.name} wants a list of {kind.__name__}; got {given!r}."
    ) from None


def config_from_flags(experiment: Experiment) -> Any:
  """What the command line asks for.

  Raises:
    app.UsageError: if that makes no sense, or cannot be run or saved here.
  """
  try:
    changes = {}
    for field in dataclasses.fields(experiment.config):
      value = flags.FLAGS[field.name].value
      if isinstance(field.default, tuple) and value is not None:
        value = _entries(field, value)
      if value is not None:
        changes[field.name] = value
    config = experiment.at_scale(flags.FLAGS.scale, **changes)
    os.environ[datasets.DATA_DIR] = flags.FLAGS.data_dir
    _check_data(config)
    results.check_parent(flags.FLAGS.output_dir, "output_dir")
    results.check_parent(checkpoint_dir(), "checkpoint_dir")
    if experiment.figure is not None:
      plots.check()
    _check_processes()
  except (ValueError, OSError, ImportError) as error:
    raise app.UsageError(str(error)) from None
  return config


def _check_data(config: Any) -> None:
  """They are there, with as many different images as are wanted."""
  dataset = getattr(config, "dataset", None)
  if dataset is None:
    return
  (field,) = (f for f in dataclasses.fields(config) if f.name == "dataset")
  once = field.metadata["choices"] == datasets.INPUTS  # none twice
  datasets.check(
    dataset,
    getattr(config, "batch", 1) if once else 1,
    getattr(config, "distinct_images", 1),
  )


def checkpoint_dir() -> str:
  """Where done items are kept; absolute, as Orbax wants it."""
  given = flags.FLAGS.checkpoint_dir
  path = given or os.path.join(flags.FLAGS.output_dir, ".checkpoints")
  return path if "://" in path else os.path.abspath(path)


def processes() -> dict[str, Any]:
  """What `jax.distributed.initialize` is told; nothing where it finds out."""
  given = {
    "coordinator_address": flags.FLAGS.coordinator,
    "num_processes": flags.FLAGS.num_processes,
    "process_id": flags.FLAGS.process_id,
  }
  return {name: value for name, value in given.items() if value is not None}


def _check_processes() -> None:
  given = processes()
  if given and not flags.FLAGS.distributed:
    raise ValueError(
      "coordinator, num_processes and process_id need --distributed."
    )
  if len(given) not in (0, 3):
    raise ValueError(
      "coordinator, num_processes and process_id must be given together, or "
      "not at all where Cloud TPU or Slurm tells them."
    )
