"""Every public name explains itself: docstring, example, reference."""

import inspect
import pathlib
import re

import flax.linen
import jax
import pytest

import initjax

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = {
  "gains": initjax.gains,
  "initializers": initjax.initializers,
  "meanfield": initjax.meanfield,
  "probes": initjax.probes,
  "reports": initjax.reports,
  "schemes": initjax.schemes,
  "stacks": initjax.stacks,
  "testing": initjax.testing,
  "tracing": initjax.tracing,
}
OURS = ("measure", "signal_graph", "functional", "propagate")
OURS += tuple(initjax.reports.__all__)  # of no paper
FUNCTIONS = [
  pytest.param(getattr(package, name), id=f"{title}.{name}")
  for title, package in PACKAGES.items()
  for name in package.__all__
  if inspect.isfunction(getattr(package, name))
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_public_functions_have_an_example(function):
  doc = inspect.getdoc(function) or ""
  assert ">>> " in doc
  assert len(doc.splitlines()[0]) <= 80


@pytest.mark.parametrize("function", FUNCTIONS)
def test_public_functions_name_their_source(function):
  doc = inspect.getdoc(function) or ""
  if function.__name__ not in OURS:
    assert "Reference:" in doc


@pytest.mark.parametrize("function", FUNCTIONS)
def test_public_functions_are_annotated(function):
  signature = inspect.signature(function)
  assert signature.return_annotation is not inspect.Signature.empty
  for parameter in signature.parameters.values():
    assert parameter.annotation is not inspect.Parameter.empty


def test_readme_lists_every_initializer():
  table = (ROOT / "README.md").read_text().split("## Which gain")[0]
  listed = set(re.findall(r"`([a-z_0-9*]+)`", table))
  starred = tuple(name[:-1] for name in listed if name.endswith("*"))
  for name in initjax.initializers.__all__:
    if name != "Initializer":
      assert name in listed or name.startswith(starred), name


def test_readme_holds_two_commands_first():
  screen = (ROOT / "README.md").read_text().splitlines()[:24]
  commands = [line for line in screen if line.startswith("python3 -m venv")]
  endings = [command.rsplit(" && ", 1)[-1] for command in commands]
  assert endings == ["python -m experiments.signal_propagation", "pytest"]


def test_every_file_is_short():
  for folder in ("initjax", "experiments", "tests"):
    for path in (ROOT / folder).rglob("*.py"):
      assert len(path.read_text().splitlines()) <= 400, path


def test_readme_shows_a_report_as_it_is(monkeypatch):
  """Its code, run, gives the first verdict, numbers left aside."""
  monkeypatch.setenv("COLUMNS", "80")
  readme = (ROOT / "README.md").read_text()
  section = readme.split("## Find out what is wrong")[1]
  code, shown = section.split("```python\n")[1].split("```text\n")[:2]
  code = code.split("print(")[0]
  names = {"nn": flax.linen, "jax": jax, "initjax": initjax}
  exec(code, names)
  report = initjax.diagnose(
    names["model"].apply, names["variables"], names["x"]
  )
  without_numbers = lambda text: re.sub(r"[-\d.]+", "#", text)
  first = shown.split("✗ 2.")[0]
  assert without_numbers(str(report)).startswith(without_numbers(first))


def test_every_experiment_is_told_of():
  readme = (ROOT / "experiments/README.md").read_text()
  for path in (ROOT / "experiments").glob("[a-z]*.py"):
    assert f"[`{path.stem}`]({path.name})" in readme
  for figure in re.findall(r"\(figures/(\w+\.png)\)", readme):
    assert (ROOT / "experiments/figures" / figure).exists()


def test_no_two_test_files_share_a_name():
  """pytest imports them by their names alone, but for conftest."""
  files = (ROOT / "tests").rglob("*.py")
  names = [path.stem for path in files if path.stem != "conftest"]
  assert len(set(names)) == len(names)
