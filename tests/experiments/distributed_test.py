"""Two processes with four devices each: as one with eight.

Every run of a batch is computed on one device by the same program, and nothing
is summed over devices; so results agree bit for bit.
"""

import re
import signal

import processes
import pytest

pytestmark = pytest.mark.slow  # several processes


def start_two(directory, **environment):
  """Both processes of a run."""
  port = processes.free_port()
  return [
    processes.start(
      f"--output_dir={directory}",
      "--distributed",
      f"--coordinator=127.0.0.1:{port}",
      "--num_processes=2",
      f"--process_id={i}",
      devices=4,
      JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
      **environment,
    )
    for i in range(2)
  ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """What one process with eight devices gives."""
  directory = tmp_path_factory.mktemp("whole")
  processes.finish(processes.start(f"--output_dir={directory}"))
  return processes.content(directory)


def test_both_stop_in_a_part_shorter_than_what_was_before(tmp_path):
  """Told in its first item of two, after five items, they do not do a third."""
  both = start_two(tmp_path, PAUSE="1.5", PART="1")
  processes.wait_for(both[1], "item 4")
  both[1].send_signal(signal.SIGTERM)
  for process in both:
    processes.finish(process, 143)
  assert not list(tmp_path.glob("small-*"))


def test_both_stop_when_one_is_told_and_go_on_together(tmp_path, whole):
  """What they give in the end is that of one process, and one writes it."""
  both = start_two(tmp_path, PAUSE="1.5")
  processes.wait_for(both[1], "item 1")
  both[1].send_signal(signal.SIGTERM)
  (_, errors), _ = (processes.finish(process, 143) for process in both)
  assert "stopped; to go on: " in errors
  assert not list(tmp_path.glob("small-*"))
  (output, errors), (silent, _) = map(processes.finish, start_two(tmp_path))
  assert "wrote small.json" in output
  assert "wrote" not in silent
  done = int(re.search(r"goes on after (\d) items", errors)[1])
  assert 2 <= done < 7
  assert len(re.findall(r"item \d", output)) == 7 - done
  assert processes.content(tmp_path) == whole
