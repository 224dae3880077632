"""The command line: what is wrong is said in a line, before anything runs."""

import json
import os
import types

import numpy as np
import processes
import pytest
import small_experiment
from absl import app

from experiments.rectifiers import __main__ as rectifiers
from experiments.runtime import checkpoints, command_line, launch
from experiments.runtime.job import Job


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (["--items=0"], "items must be at least 1; got 0"),
    (["--items=many"], "flag --items=many"),
    (["--dataset=mnist"], "mnist needs --data_dir, a directory with its files"),
    (["--dataset=cifar10", "--data_dir=/dev"], "no cifar10 in '/dev'. Wanted"),
    (["--dataset=digits", "--batch=5000"], "5000 different inputs are wanted"),
    (["--scale=huge"], "flag --scale=huge"),
    (["more"], "unexpected arguments: ['more']"),
    (["--process_id=1"], "need --distributed"),
    (["--distributed", "--process_id=1"], "must be given together"),
    (["--output_dir=/dev/null/x"], "output_dir '/dev/null/x' is no directory"),
    (["--checkpoint_dir=/dev/null"], "checkpoint_dir '/dev/null' is no"),
    (["--output_dir="], "output_dir must not be empty"),
  ],
)
def test_what_is_wrong_is_said_in_a_line(refused, tmp_path, given, message):
  flags = f"--output_dir={tmp_path}", *given
  said = refused(small_experiment.EXPERIMENT, *flags)
  assert message in said
  assert len(said.splitlines()) == 1
  assert not list(tmp_path.glob("small*"))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--items=0", "small: items must be at least 1; got 0"),
    ("--distributed", "does not find the other processes by itself here"),
  ],
)
def test_a_process_ends_with_that_line(tmp_path, flag, message):
  process = processes.start(f"--output_dir={tmp_path}", flag)
  output, errors = processes.finish(process, 1)
  (line,) = errors.splitlines()
  assert message in line
  assert not output
  assert not list(tmp_path.glob("small*"))


@pytest.mark.slow
def test_the_default_directory_is_here(tmp_path):
  processes.finish(processes.start("--items=1", directory=tmp_path))
  (found,) = (tmp_path / "results").iterdir()
  assert found.name.startswith("small")


@pytest.mark.slow
def test_a_trace_and_other_directories(tmp_path):
  """One of them no terminal can show, and looks like markup."""
  kept, written = tmp_path / "kept", tmp_path / "[/red]µ"
  flags = f"--output_dir={written}", f"--checkpoint_dir={kept}"
  away = {"TMPDIR": str(tmp_path / "away"), "PYTHONIOENCODING": "ascii"}
  os.mkdir(away["TMPDIR"])
  output, _ = processes.finish(
    processes.start(*flags, "--profile", "--items=1", **away)
  )
  assert "small.json, small.png to " in output
  assert "[/red]?/small-" in output
  os.rmdir(away["TMPDIR"])  # nothing is left in it
  assert not kept.exists()
  (directory,) = written.iterdir()
  names = sorted(os.listdir(directory))
  assert names == ["profile", "small.json", "small.png"]
  assert list(directory.glob("profile/**/*.xplane.pb"))
  content = json.loads((directory / "small.json").read_text())
  assert content["config"]["items"] == 1
  assert len(content["devices"]) == 8


def test_a_disk_that_is_full_at_the_end_leaves_no_half_of_a_result(
  tmp_path, monkeypatch
):
  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(launch.results, "write_figure", full)
  config = small_experiment.Config(items=3)
  result = small_experiment.run(config, Job())
  given = small_experiment.EXPERIMENT, config, result
  with pytest.raises(OSError, match="No space left"):
    launch.save(*given, str(tmp_path))
  assert not list(tmp_path.iterdir())
  flags = types.SimpleNamespace(
    FLAGS=types.SimpleNamespace(output_dir=str(tmp_path))
  )
  monkeypatch.setattr(launch, "flags", flags)
  with pytest.raises(app.UsageError, match="kept in /kept: make room"):
    launch._saved(*given, "/kept")


def test_an_item_that_cannot_be_kept_is_told_in_a_line(tmp_path):
  class Full:
    def save(self, number, args, force):
      raise ValueError("RESOURCE_EXHAUSTED: no space\nand more")

  kept = checkpoints.Kept(tmp_path, Full(), iter([0]), iter([0]), None)
  with pytest.raises(app.UsageError, match=r"item 0 \(relu\) cannot be kept"):
    checkpoints.save(kept, 0, "relu", [np.ones(2)])


def test_a_list_that_is_no_list_of_numbers_names_its_flag():
  field = rectifiers.Config.__dataclass_fields__["rates"]
  assert command_line._entries(field, ["0.1", "1"]) == (0.1, 1.0)
  with pytest.raises(ValueError, match=r"rates wants a list of float; got 'a'"):
    command_line._entries(field, ["a"])
