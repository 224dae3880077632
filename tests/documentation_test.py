"""Every public name explains itself: docstring, example, reference."""

import inspect
import pathlib
import re

import flax.linen
import jax
import pytest

import initjax

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("gains", "initializers", "meanfield", "probes", "reports",
            "schemes", "stacks", "testing", "tracing")  # fmt: skip
OF_NO_PAPER = {"measure", "signal_graph", "functional", "propagate"}
OF_NO_PAPER |= {*initjax.reports.__all__}
FUNCTIONS = {
  f"{package}.{name}": getattr(getattr(initjax, package), name)
  for package in PACKAGES
  for name in getattr(initjax, package).__all__
  if inspect.isfunction(getattr(getattr(initjax, package), name))
}


def without(law):
  """Names of the public functions that break it."""
  docs = {name: inspect.getdoc(f) or "" for name, f in FUNCTIONS.items()}
  return [name for name, f in FUNCTIONS.items() if not law(f, docs[name])]


def test_public_functions_have_an_example_and_a_short_first_line():
  assert without(lambda _, doc: ">>> " in doc) == []
  assert without(lambda _, doc: len(doc.splitlines()[0]) <= 80) == []


def test_public_functions_name_their_source():
  nameless = without(lambda _, doc: "Reference:" in doc)
  assert {name.split(".")[1] for name in nameless} <= OF_NO_PAPER


def test_public_functions_are_annotated():
  def is_annotated(function, _):
    signature = inspect.signature(function)
    listed = [p.annotation for p in signature.parameters.values()]
    return inspect.Signature.empty not in (*listed, signature.return_annotation)

  assert len(FUNCTIONS) > 50
  assert without(is_annotated) == []


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


@pytest.mark.slow  # a whole model of 40 layers
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
