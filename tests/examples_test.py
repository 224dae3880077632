"""The scripts in docs/examples run, and end in a healthy model."""

import pathlib
import runpy

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "docs" / "examples"


def run(name, capsys):
  runpy.run_path(str(EXAMPLES / name), run_name="__main__")
  return capsys.readouterr().out


def test_examples_are_short():
  paths = list(EXAMPLES.glob("*.py"))
  assert len(paths) == 3
  assert all(len(path.read_text().splitlines()) <= 60 for path in paths)


@pytest.mark.slow  # each compiles a model several times
def test_linen_learns_after_the_cure(capsys):
  sick, _, cured, loss = run("linen.py", capsys).splitlines()
  assert "vanishing signal" in sick
  assert cured == "he_normal: []"
  before, after = (float(part.split()[-1]) for part in loss.split(","))
  assert after < before / 4


@pytest.mark.slow
def test_nnx_is_calibrated(capsys):
  assert "no problems found in 4 operations" in run("nnx.py", capsys)


@pytest.mark.slow
def test_equinox_is_cured(capsys):
  pytest.importorskip("equinox", reason="an optional peer")
  before, after = run("equinox_mlp.py", capsys).split("\n\n! 1.")
  assert "vanishing signal" in after
  assert "no problems found" not in before
  assert after.rstrip().endswith("no problems found in 7 operations")
