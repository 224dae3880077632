"""The command line: what is wrong is said in a line, before anything runs."""

import json
import os

import processes
import pytest

from experiments import _flags, rectifiers


@pytest.mark.parametrize(
  ("flags", "message"),
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
    (["--distributed"], "does not find the other processes by itself here"),
    (["--output_dir=/dev/null/x"], "output_dir '/dev/null/x' is no directory"),
    (["--checkpoint_dir=/dev/null"], "checkpoint_dir '/dev/null' is no"),
  ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, flags, message):
  process = processes.start(f"--output_dir={tmp_path}", *flags)
  output, errors = processes.finish(process, 1)
  assert message in errors
  if not message.startswith("flag "):  # absl's own are three lines
    assert len(errors.splitlines()) == 1
  assert not output
  assert not list(tmp_path.glob("small*"))


def test_the_default_directory_is_here(tmp_path):
  processes.finish(processes.start("--items=1", directory=tmp_path))
  (found,) = (tmp_path / "results").iterdir()
  assert found.name.startswith("small")


def test_a_trace_and_another_directory_of_checkpoints(tmp_path):
  kept = tmp_path / "kept"
  flags = f"--output_dir={tmp_path}", f"--checkpoint_dir={kept}"
  processes.finish(processes.start(*flags, "--profile", "--items=1"))
  assert not kept.exists()
  (directory,) = tmp_path.iterdir()
  names = sorted(os.listdir(directory))
  assert names == ["profile", "small.json", "small.png"]
  assert list(directory.glob("profile/**/*.xplane.pb"))
  content = json.loads((directory / "small.json").read_text())
  assert content["config"]["items"] == 1
  assert len(content["devices"]) == 8


def test_a_list_that_is_no_list_of_numbers_names_its_flag():
  field = rectifiers.Config.__dataclass_fields__["rates"]
  assert _flags._entries(field, ["0.1", "1"]) == (0.1, 1.0)
  with pytest.raises(ValueError, match=r"rates wants a list of float; got 'a'"):
    _flags._entries(field, ["a"])
