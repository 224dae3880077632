"""From a command line to a finished run: table, JSON, figure."""

import contextlib
import dataclasses
import functools
import pathlib
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
from absl import app, flags, logging
from etils import epath

from experiments import (
  _checkpoints,
  _flags,
  _progress,
  _results,
  _stop,
)
from experiments._experiment import Experiment, Result
from experiments._job import Job


def launch(experiment: Experiment) -> None:
  """Runs an experiment as a script: each option of its config is a flag."""
  _flags.define(experiment)
  app.run(functools.partial(_main, experiment))


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
  if experiment.figure is not None:
    figure = experiment.figure(result)
    _results.write_figure(directory / f"{experiment.name}.png", figure)
  if experiment.page is not None:
    page = experiment.page(result)
    _results.write_text(directory / f"{experiment.name}.html", page)
  return directory


def _main(experiment: Experiment, argv: list[str]) -> None:
  try:
    _start(experiment, argv)
  except app.UsageError as error:  # alone: absl would add a page of help
    sys.exit(f"{experiment.name}: {error}")


def _start(experiment: Experiment, argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)  # JAX tells of every absent TPU
  config = _flags.config_from_flags(experiment)
  if flags.FLAGS.distributed:
    _join_others()
  try:
    with _stopping():
      result = _run(experiment, config)
  except (_stop.Stopped, KeyboardInterrupt) as stop:
    print(f"stopped; to go on: {shlex.join(_command())}", file=sys.stderr)
    stopped = isinstance(stop, _stop.Stopped)
    status = _stop.STATUS if stopped else _stop.CTRL_C
    if jax.process_count() == 1:
      _stop.leave(status)
    sys.exit(status)  # together with the others
  if result.get("failed"):
    sys.exit(1)


def _join_others() -> None:
  try:
    jax.distributed.initialize(**_flags.processes())
  except ValueError as error:
    raise app.UsageError(
      "--distributed: JAX does not find the other processes by itself here "
      f"({error}); give --coordinator, --num_processes and --process_id."
    ) from None


def _command() -> list[str]:
  """This one, for the message of how to go on."""
  import __main__

  spec = getattr(__main__, "__spec__", None)
  script = ["-m", spec.name] if spec else [sys.argv[0]]
  return ["python", *script, *sys.argv[1:]]


def _stopping() -> contextlib.AbstractContextManager[None]:
  if jax.process_count() > 1:
    return contextlib.nullcontext()
  return _stop.on_sigterm()


def _run(experiment: Experiment, config: Any) -> Result:
  """Runs, and shows and saves the result if this is process 0."""
  import rich.console

  run = _checkpoints.identity(
    experiment.name, dataclasses.asdict(config), flags.FLAGS.data_dir
  )
  directory = epath.Path(_flags.checkpoint_dir()) / run
  first = jax.process_index() == 0
  with (
    _checkpoints.opened(directory) as kept,
    _progress.progress(experiment.name, quiet=not first) as advance,
    _traced(flags.FLAGS.profile) as trace,
  ):
    result = experiment.run(config, Job(advance=advance, kept=kept))
  if first:
    console = rich.console.Console()
    for table in experiment.tables(result):
      console.print(table)
    written = save(experiment, config, result, flags.FLAGS.output_dir)
    _keep_trace(trace, written / "profile")
    names = sorted(path.name for path in written.iterdir())
    console.print(f"wrote {', '.join(names)} to {written}", highlight=False)
    _checkpoints.remove(directory)
  return result


@contextlib.contextmanager
def _traced(wanted: bool) -> Iterator[pathlib.Path | None]:
  """A trace of what devices do, in a directory of its own."""
  if not wanted:
    yield None
    return
  path = tempfile.mkdtemp(prefix="initjax-trace-")
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # it would slow down what it looks at
  with jax.profiler.trace(path, profiler_options=options):
    yield pathlib.Path(path)


def _keep_trace(trace: pathlib.Path | None, target: epath.Path) -> None:
  if trace is None:
    return
  for path in trace.rglob("*"):
    if path.is_file():
      copy = target / path.relative_to(trace)
      copy.parent.mkdir(parents=True, exist_ok=True)
      copy.write_bytes(path.read_bytes())
  shutil.rmtree(trace)
