"""From a command line to a finished run: flags, table, JSON, figure."""

import dataclasses
import functools
import sys
from typing import Any

import jax
from absl import app, flags, logging

from experiments import _results, _signal_views
from experiments._experiment import SCALES, Experiment, Result
from experiments._job import Job


def launch(experiment: Experiment) -> None:
  """Runs an experiment as a script: each option of its config is a flag."""
  _define_flags(experiment)
  app.run(functools.partial(_main, experiment))


def _define_flags(experiment: Experiment) -> None:
  flags.DEFINE_enum("scale", "laptop", SCALES, "Size of the run.")
  flags.DEFINE_string(
    "output_dir", "results", "Where a new directory of results is made."
  )
  names = ["scale", "output_dir"]
  for field in dataclasses.fields(experiment.config):
    _define(field)
    names.append(field.name)
  for name in names:  # so that --help shows them
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
        value = tuple(map(field.metadata["kind"], value))
      if value is not None:
        changes[field.name] = value
    config = experiment.at_scale(flags.FLAGS.scale, **changes)
    _results.check_parent(flags.FLAGS.output_dir)
    _signal_views.check_figures()
  except (ValueError, OSError, ImportError) as error:
    raise app.UsageError(str(error)) from None
  return config


def save(
  experiment: Experiment, config: Any, result: Result, parent: str
) -> Any:
  """Writes numbers, claims and figure to a new directory in `parent`."""
  directory = _results.new_directory(parent, experiment.name)
  content = {
    "config": dataclasses.asdict(config),
    "jax": jax.__version__,
    "devices": list(map(str, jax.devices())),
    "claims": [
      {**claim._asdict(), "agrees": claim.agrees}
      for claim in experiment.claims(result)
    ],
    "result": {name: value for name, value in result.items() if name[0] != "_"},
  }
  _results.write_json(directory / f"{experiment.name}.json", content)
  figure = experiment.figure(result)
  _results.write_whole(
    directory / f"{experiment.name}.png",
    lambda path: figure.savefig(path, dpi=150),
  )
  if experiment.page is not None:
    page = experiment.page(result)
    _results.write_text(directory / f"{experiment.name}.html", page)
  return directory


def _main(experiment: Experiment, argv: list[str]) -> None:
  import rich.console

  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)  # JAX tells of every absent TPU
  config = config_from_flags(experiment)
  result = experiment.run(config, Job())
  console = rich.console.Console()
  for table in experiment.tables(result):
    console.print(table)
  directory = save(experiment, config, result, flags.FLAGS.output_dir)
  _signal_views.print_written(directory, experiment.name)
  if result.get("failed"):
    sys.exit(1)
