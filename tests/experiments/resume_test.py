"""A run that was stopped goes on, and gives what it would have given."""

import base64
import json
import pickle
import re
import signal
import subprocess
import sys

import numpy as np
import processes
import pytest
import small_experiment
from absl import app

from experiments.runtime import checkpoints, progress
from experiments.runtime.job import Job


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """What a run gives that nothing disturbs."""
  directory = tmp_path_factory.mktemp("whole")
  processes.finish(processes.start(f"--output_dir={directory}"))
  assert [path.name[:5] for path in directory.iterdir()] == ["small"]
  return processes.content(directory)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("number", "status"),
  [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)],
)
def test_a_run_goes_on_after_the_last_item(tmp_path, whole, number, status):
  """Items 0 to 2 are done, 3 is begun; with the empty list's item, 4."""
  flag = f"--output_dir={tmp_path}"
  process = processes.start(flag, HOLD="3")
  processes.wait_for(process, "item 3")
  process.send_signal(number)
  _, errors = processes.finish(process, status)
  if number != signal.SIGKILL:
    line = errors.strip().splitlines()[-1]
    assert re.fullmatch(rf"stopped; to go on: python .*{flag}", line)
    assert "Traceback" not in errors
  output, errors = processes.finish(processes.start(flag))
  assert "goes on after 4 items" in errors
  assert re.findall(r"item \d", output) == ["item 3", "item 4", "item 5"]
  assert processes.content(tmp_path) == whole
  assert not (tmp_path / ".checkpoints").exists()


@pytest.mark.slow
def test_a_run_that_is_computing_stops_with_its_status(tmp_path):
  """Not with that of threads which lose their interpreter."""
  process = processes.start(f"--output_dir={tmp_path}", HOLD="1", BUSY="1")
  processes.wait_for(process, "held")
  process.send_signal(signal.SIGTERM)
  _, errors = processes.finish(process, 143)
  assert errors.strip().splitlines()[-1].startswith("stopped; to go on: ")


@pytest.mark.slow
def test_what_nobody_heard_stops_the_run_after_the_item(tmp_path, whole):
  flag = f"--output_dir={tmp_path}"
  process = processes.start(flag, HOLD="3", DEAF="1")
  processes.wait_for(process, "held")
  process.send_signal(signal.SIGTERM)
  processes.finish(process, 143)
  _, errors = processes.finish(processes.start(flag))
  assert "goes on after 5 items" in errors
  assert processes.content(tmp_path) == whole


@pytest.mark.slow
def test_the_same_run_twice_at_once_is_refused(tmp_path):
  flag = f"--output_dir={tmp_path}"
  process = processes.start(flag, HOLD="0")
  processes.wait_for(process, "item 0")
  output, errors = processes.finish(processes.start(flag), 1)
  assert "the same run is going on already" in output + errors
  process.kill()
  process.communicate()


def kept_run(directory, count=3):
  """Values of squares and roots, and which were computed."""
  computed = []

  def at(item):
    computed.append(item)
    return {"square": item**2, "root": small_experiment.Walk(item**0.5, ())}

  with checkpoints.opened(directory) as kept:
    found = Job(kept=kept).map(at, range(count))
  return found, computed


def test_structures_and_types_come_back_as_they_were(tmp_path):
  first, computed = kept_run(tmp_path / "run")
  again, none = kept_run(tmp_path / "run")
  assert computed == [0, 1, 2]
  assert none == []
  for one, other in zip(first, again, strict=True):
    assert type(other["root"]) is small_experiment.Walk
    assert other["root"].course == ()
    np.testing.assert_array_equal(one["square"], other["square"])
    assert one["root"].end.dtype == other["root"].end.dtype


def test_a_half_saved_item_is_no_item(tmp_path, capsys):
  first, _ = kept_run(tmp_path / "run")
  items = tmp_path / "run" / "items"
  (items / "item_1").rename(items / "item_1.orbax-checkpoint-tmp")
  again, computed = kept_run(tmp_path / "run")
  assert computed == [1]
  assert again == first
  assert "goes on after 2 items" in capsys.readouterr().err


def spoil_arrays(item):
  for path in item.glob("leaves/**/d/*"):
    path.write_bytes(path.read_bytes()[:3])


def spoil_structure(item):
  path = item / "about" / "metadata"
  path.write_text(path.read_text().replace('"structure": "', '"structure": "x'))


def take_another(item):
  path = item / "about" / "metadata"
  path.write_text(path.read_text().replace('"item": "1"', '"item": "7"'))


@pytest.mark.parametrize("spoil", [spoil_arrays, spoil_structure, take_another])
def test_a_damaged_item_is_computed_anew(tmp_path, capsys, spoil):
  first, _ = kept_run(tmp_path / "run")
  spoil(tmp_path / "run" / "items" / "item_1")
  again, computed = kept_run(tmp_path / "run")
  assert computed == [1]
  assert again == first
  lines = capsys.readouterr().err.strip().splitlines()
  (line,) = (line for line in lines if "cannot be read" in line)
  assert line.startswith(f"item 1 (1) in {tmp_path / 'run'}")
  assert "all others are kept" in line
  _, computed = kept_run(tmp_path / "run")
  assert computed == []


def stored_item(tree):
  """What Orbax is given of an item."""
  stored = {}

  class Manager:
    def save(self, number, args, force):
      stored.update(args.leaves.item | args.about.item)

  kept = checkpoints.Kept(None, Manager(), iter(()), iter(()), None)
  checkpoints.save(kept, 0, "0", tree)
  content = stored.pop("bytes").copy()
  return content, json.loads(json.dumps(stored))


def rebuilt(content, about):
  return checkpoints._rebuild({"bytes": content}, about, "0")


def test_changed_bytes_are_noticed():
  """Whatever Orbax itself would let pass; also of what they mean."""
  content, about = stored_item({"a": np.arange(5), "b": np.zeros((0, 2))})
  found = rebuilt(content, about)
  np.testing.assert_array_equal(found["a"], np.arange(5))
  assert found["b"].shape == (0, 2)
  for i in (0, 17, -1):
    changed = content.copy()
    changed[i] ^= 1
    with pytest.raises(ValueError, match="its 40 bytes are not those"):
      rebuilt(changed, about)
  for other in (["float64", [5]], ["int64", [-1]], ["int64", [1, 5]]):
    changed = {**about, "leaves": [other, about["leaves"][1]]}
    with pytest.raises(ValueError, match="its 40 bytes are not those"):
      rebuilt(content, changed)


@pytest.mark.parametrize(
  ("structure", "message"),
  [
    (b"cnumpy.f2py.__main__\nmain\n.", "asks for 'numpy.f2py.__main__.main'"),
    (b"cos\ngetcwd\n(tR.", "asks for 'os.getcwd'"),
    (b"cbuiltins\ntuple\n.", "asks for 'builtins.tuple'"),
    (b"csmall_experiment\n_experiment\n.", "asks for 'small_experiment._"),
    (
      b"cexperiments.runtime.launch\nExperiment\n.",
      "asks for .*launch",
    ),
    (b"csmall_experiment\nWalk\n(N}S'end'\nI0\nstb.", "changes the state of"),
  ],
)
def test_a_structure_may_ask_for_named_tuples_only(structure, message):
  """By exact names, of modules that are there: this one exits the process."""
  content, about = stored_item(small_experiment.Walk(np.arange(5), ()))
  assert type(rebuilt(content, about)) is small_experiment.Walk
  about["structure"] = base64.b64encode(structure).decode()
  checksum = checkpoints._checksum(content[:-32].tobytes(), about)
  content[-32:] = np.frombuffer(checksum, np.uint8)
  with pytest.raises(pickle.UnpicklingError, match=message):
    rebuilt(content, about)
  assert "numpy.f2py.__main__" not in sys.modules
  assert small_experiment.Walk(1, 2).end == 1


def test_what_cannot_be_written_is_told_in_a_line(tmp_path):
  """And what a link leads to stays as it is."""
  (tmp_path / "run").write_text("no directory")
  (tmp_path / "other" / ".lock").mkdir(parents=True)
  for name in ("run", "other"):
    with (
      pytest.raises(
        app.UsageError, match=f"no items .* in {tmp_path / name}: "
      ),
      checkpoints.opened(tmp_path / name),
    ):
      pass
  (tmp_path / "third").mkdir()
  (tmp_path / "third" / ".lock").symlink_to(tmp_path / "run")
  with checkpoints.opened(tmp_path / "third"):
    assert (tmp_path / "run").read_text() == "no directory"


def test_parts_are_kept_apart(tmp_path):
  with checkpoints.opened(tmp_path / "run") as kept:
    job = Job(kept=kept)
    for name in ("one", "two"):
      assert job.part(name).map(lambda x: x + 1, [1]) == [2]
  with checkpoints.opened(tmp_path / "run") as kept:
    assert Job(kept=kept).part("two").map(None, [1]) == [2]


def test_an_item_that_is_no_number_is_refused():
  with pytest.raises(TypeError, match="item 4 must give arrays of numbers"):
    Job().map(lambda item: {"name": "relu"}, [4])


def test_lines_of_progress_tell_rate_and_time_left(capsys):
  times = iter([0.0, 4.0, 12.0, 16.0, 16.5, 18.0])
  advance = progress._in_lines("small", lambda: next(times))
  for label in "abcd":
    advance(label, 4)
  advance("x", 1, part="inner")
  assert capsys.readouterr().err.splitlines() == [
    "small 2/4 (b): 6 s each, 12 s left",
    "small 4/4 (d): 4.12 s each, 0 s left",
    "small, inner 1/1 (x): 1.5 s each, 0 s left",
  ]


def test_time_left_is_that_of_items_which_are_computed(capsys):
  times = iter([0.0, 0.1, 0.2, 12.2])
  advance = progress._in_lines("small", lambda: next(times))
  for label, was_kept in (("a", True), ("b", True), ("c", False)):
    advance(label, 5, was_kept=was_kept)
  (line,) = capsys.readouterr().err.splitlines()
  assert line == "small 3/5 (c): 12 s each, 24 s left"


def test_a_terminal_shows_bars():
  import rich.console

  console = rich.console.Console(force_terminal=True, width=100, record=True)
  with progress._bars(console) as bars:
    advance = progress._on_bars(bars, "small")
    for label in ("relu", "tanh", "again"):
      advance(label, 2)
    tasks = [(task.description, task.completed) for task in bars.tasks]
  assert tasks == [("small", 2), ("small", 1)]


@pytest.mark.slow
def test_help_shows_the_flags():
  done = subprocess.run(
    [processes.sys.executable, "-m", "experiments.rectifiers", "--help"],
    cwd=processes.ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  for flag in ("scale", "output_dir", "checkpoint_dir", "data_dir", "profile",
               "distributed", "seeds"):  # fmt: skip
    assert f"--{flag}" in done.stdout or f"--[no]{flag}" in done.stdout
