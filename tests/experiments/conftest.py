"""Runs for all tests of a module, and command lines without a process."""

import pathlib

import pytest
from absl import flags

from experiments.data import datasets
from experiments.runtime import command_line, launch
from experiments.runtime.job import Job

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def config(request):
  """Of the module's experiment, at its size "smoke"."""
  return request.module.EXPERIMENT.at_scale("smoke")


@pytest.fixture(scope="module")
def result(request, config):
  """A whole run, over the eight devices of the tests: what asks for it is
  slow."""
  return request.module.EXPERIMENT.run(config, Job())


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items):
  for item in items:
    if HERE in item.path.parents and "result" in item.fixturenames:
      item.add_marker(pytest.mark.slow)


@pytest.fixture
def refused(monkeypatch):
  """What an experiment says of flags that it does not take."""
  monkeypatch.setenv(datasets.DATA_DIR, "")
  others = set(flags.FLAGS)

  def ask(experiment, *given):
    command_line.define(experiment)
    try:
      words = flags.FLAGS([experiment.name, *given])
      with pytest.raises(SystemExit) as stop:
        launch._main(experiment, words)
      return str(stop.value)
    except flags.Error as error:  # absl prints it, and its help
      return str(error)
    finally:
      for name in set(flags.FLAGS) - others:
        delattr(flags.FLAGS, name)
      flags.FLAGS.unparse_flags()

  return ask
