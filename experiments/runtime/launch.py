"""From a command line to a finished run: table, JSON, figure."""

import contextlib
import dataclasses
import functools
import io
import pathlib
import shlex
import sys
import tempfile
from typing import Any

import jax
from absl import app, flags, logging
from etils import epath

from experiments.data import datasets
from experiments.runtime import (
  checkpoints,
  command_line,
  progress,
  results,
  run_identity,
  stop,
)
from experiments.runtime.experiment import Experiment, Result
from experiments.runtime.job import Job


def launch(experiment: Experiment) -> None:
  """Runs an experiment as a script: each option of its config is a flag."""
  command_line.define(experiment)
  app.run(functools.partial(_main, experiment))


def save(
  experiment: Experiment, config: Any, result: Result, parent: str
) -> Any:
  """Writes numbers, claims and figure to a new directory in `parent`.

  Raises:
    OSError: if that cannot be done; then there is no such directory.
  """
  directory = results.new_directory(parent, experiment.name)
  try:
    _write(experiment, config, result, directory)
  except OSError:
    directory.rmtree()
    raise
  return directory


def _write(
  experiment: Experiment, config: Any, result: Result, directory: epath.Path
) -> None:
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
  results.write_json(directory / f"{experiment.name}.json", content)
  if experiment.figure is not None:
    figure = experiment.figure(result)
    results.write_figure(directory / f"{experiment.name}.png", figure)
  if experiment.page is not None:
    page = experiment.page(result)
    results.write_text(directory / f"{experiment.name}.html", page)


def _main(experiment: Experiment, argv: list[str]) -> None:
  try:
    _start(experiment, argv)
  except app.UsageError as error:  # alone: absl would add a page of help
    sys.exit(f"{experiment.name}: {error}")


def _start(experiment: Experiment, argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)  # JAX tells of every absent TPU
  if isinstance(sys.stdout, io.TextIOWrapper):  # no letter stops a run
    sys.stdout.reconfigure(errors="replace")
  config = command_line.config_from_flags(experiment)
  if flags.FLAGS.distributed:
    _join_others()
  try:
    with _stopping():
      result = _run(experiment, config)
  except (stop.Stopped, KeyboardInterrupt) as why:
    print(f"stopped; to go on: {shlex.join(_command())}", file=sys.stderr)
    stopped = isinstance(why, stop.Stopped)
    status = stop.STATUS if stopped else stop.CTRL_C
    if jax.process_count() == 1:
      stop.leave(status)
    sys.exit(status)  # together with the others
  if result.get("failed"):
    sys.exit(1)


def _join_others() -> None:
  try:
    jax.distributed.initialize(**command_line.processes())
  except ValueError as error:
    raise app.UsageError(
      "--distributed: JAX does not find the other processes by itself here "
      f"({error}); give --coordinator, --num_processes and --process_id."
    ) from None


def _command() -> list[str]:
  """This one, for the message of how to go on."""
  import __main__

  spec = getattr(__main__, "__spec__", None)
  if spec is None:
    return ["python", *sys.argv]
  return ["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]


def _stopping() -> contextlib.AbstractContextManager[None]:
  if jax.process_count() > 1:
    return contextlib.nullcontext()
  return stop.on_sigterm()


def _run(experiment: Experiment, config: Any) -> Result:
  """Runs, and shows and saves the result if this is process 0."""
  import rich.console

  data = datasets.fingerprint(getattr(config, "dataset", "synthetic"))
  run = run_identity.identity(experiment.name, dataclasses.asdict(config), data)
  directory = epath.Path(command_line.checkpoint_dir()) / run
  first = jax.process_index() == 0
  with tempfile.TemporaryDirectory(prefix="initjax-trace-") as trace:
    with (
      checkpoints.opened(directory) as kept,
      progress.progress(experiment.name, quiet=not first) as advance,
      _traced(trace),
    ):
      result = experiment.run(config, Job(advance=advance, kept=kept))
    if first:
      console = rich.console.Console()
      for table in experiment.tables(result):
        console.print(table)
      written = _saved(experiment, config, result, directory)
      _keep_trace(pathlib.Path(trace), written / "profile")
      names = sorted(path.name for path in written.iterdir())
      print(f"wrote {', '.join(names)} to {written}", flush=True)
      checkpoints.remove(directory)
  return result


def _saved(
  experiment: Experiment, config: Any, result: Result, kept: epath.Path
) -> Any:
  """Where it is; or one line, and all items stay where they are kept."""
  parent = flags.FLAGS.output_dir
  try:
    return save(experiment, config, result, parent)
  except OSError as error:
    raise app.UsageError(
      f"the results cannot be written to {parent}: {error}. What is done is "
      f"kept in {kept}: make room, and give the same command again."
    ) from None


def _traced(directory: str) -> contextlib.AbstractContextManager[None]:
  """With --profile, a trace of what devices do."""
  if not flags.FLAGS.profile:
    return contextlib.nullcontext()
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # it would slow down what it looks at
  return jax.profiler.trace(directory, profiler_options=options)


def _keep_trace(trace: pathlib.Path, target: epath.Path) -> None:
  for path in trace.rglob("*"):
    if path.is_file():
      copy = target / path.relative_to(trace)
      copy.parent.mkdir(parents=True, exist_ok=True)
      copy.write_bytes(path.read_bytes())
