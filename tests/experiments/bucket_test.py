"""gs:// in memory: a bucket has objects, no directories but their names."""

import datetime
import types

import fsspec.implementations.memory
import matplotlib.figure
import pytest
from etils import epath
from etils.epath import backend

from experiments.runtime import checkpoints, results


class Bucket(fsspec.implementations.memory.MemoryFileSystem):
  """Making a directory does nothing and fails never, as in Cloud Storage."""

  protocol = ("gs", "memory")
  store = {}  # noqa: RUF012  # of its own, as fsspec's is of the class
  pseudo_dirs = [""]  # noqa: RUF012

  def mkdir(self, path, create_parents=True, **options):
    pass

  def makedirs(self, path, exist_ok=False):
    pass


@pytest.fixture
def bucket(monkeypatch):
  files = Bucket()
  files.store.clear()
  monkeypatch.setattr(
    backend.fsspec_backend.__class__,
    "_get_filesystem",
    lambda self, name: files,
  )
  return files


def names(bucket):
  return sorted(
    path.removeprefix("gs://bkt/") for path in bucket.find("gs://bkt")
  )


def test_results_are_written_whole_and_never_over_others(bucket, monkeypatch):
  clock = types.SimpleNamespace(now=lambda: datetime.datetime(2026, 1, 2))
  stopped = types.SimpleNamespace(datetime=clock)
  monkeypatch.setattr(results, "datetime", stopped)
  results.check_parent("gs://bkt/out")
  assert names(bucket) == []
  first = results.new_directory("gs://bkt/out", "run")
  results.write_json(first / "run.json", {"x": 1})
  results.write_figure(first / "run.png", matplotlib.figure.Figure())
  second = results.new_directory("gs://bkt/out", "run")
  assert (first.name, second.name) == (
    "run-20260102-000000",
    "run-20260102-000000-2",
  )
  assert names(bucket) == [
    "out/run-20260102-000000/run.json",
    "out/run-20260102-000000/run.png",
  ]
  with pytest.raises(FileExistsError, match=r"run\.json already exists"):
    results.write_json(first / "run.json", {"x": 2})


def test_what_was_kept_goes_away_with_its_directory(bucket):
  kept = epath.Path("gs://bkt/out/.checkpoints/run-1")
  (kept / "items" / "item_0").write_text("")
  (epath.Path("gs://bkt/out") / "a.json").write_text("")
  checkpoints.remove(kept)
  assert names(bucket) == ["out/a.json"]


def test_one_line_says_what_a_bucket_needs(monkeypatch):
  def missing(self, name):
    raise ImportError("Please install gcsfs to access Google Storage")

  monkeypatch.setattr(
    backend.fsspec_backend.__class__, "_get_filesystem", missing
  )
  with pytest.raises(OSError, match=r"gcsfs.*pip install 'etils\[epath-gcs\]'"):
    results.check_parent("gs://bkt/out")
