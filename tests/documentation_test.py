"""Every public name explains itself: docstring, example, reference."""

import ast
import functools
import inspect
import pathlib
import re

import flax.linen
import jax
import jax.numpy as jnp
import pytest

import initjax

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("diagnosis", "gains", "graph", "initializers", "meanfield",
            "measurement", "model_init", "parametrization", "propagation",
            "recipes", "reports", "stacks", "testing")  # fmt: skip
OF_NO_PAPER = {
  "measure",
  "measure_and_grad",
  "signal_graph",
  "functional",
  "propagate",
}
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


def readme_blocks():
  """Of Python, in order; with 3 layers for 40, which take a minute."""
  readme = (ROOT / "README.md").read_text()
  code = readme.replace("range(40)", "range(3)").replace("_40", "_3")
  return re.findall("```python\n(.*?)```", code, re.DOTALL)


def numbers_in(value):
  return [x for x in jax.tree.leaves(value) if isinstance(x, float)]


def check_comments(block, names):
  """What a line returns rounds to the decimals that its comment shows."""
  lines, count = block.splitlines(), 0
  for node in ast.parse(block).body:
    comment = lines[node.end_lineno - 1].partition("#")[2]
    shown = re.findall(r"-?\d+\.\d+", comment)
    if isinstance(node, ast.Expr) and shown:
      value = eval(ast.unparse(node), names)
      for text in shown:
        digits = len(text.partition(".")[2])
        found = [round(x, digits) for x in numbers_in(value)]
        assert float(text) in found, (lines[node.lineno - 1], value)
        count += 1
  return count


@pytest.mark.slow  # every verb once, compiled
@pytest.mark.filterwarnings("ignore:The forward length map is unstable")
def test_the_readme_runs_from_top_to_bottom(capsys):
  """In one namespace; its numbers are those that it shows."""
  names, checked = {}, 0
  for block in readme_blocks():
    if "hk." not in block:
      exec(block, names)
      checked += check_comments(block, names)
    if "def test_signal_flows" in block:
      names["test_signal_flows"]()
  assert checked >= 6
  assert capsys.readouterr().out


def test_the_readme_shows_the_gains_that_it_names():
  """Of the table; the formula of each is in the tests of gains."""
  table = (ROOT / "README.md").read_text().split("## Which gain")[1]
  erf_gelu = functools.partial(jax.nn.gelu, approximate=False)
  shown = {
    "1.53358": jax.nn.gelu, "1.53353": erf_gelu, "1.59254": jnp.tanh,
    "1.84623": jax.nn.sigmoid, "1.24520": jax.nn.elu, "1.67653": jax.nn.silu,
    "1.48685": jax.nn.mish,
  }  # fmt: skip
  for text, phi in shown.items():
    assert text in table
    assert f"{initjax.gain(phi):.5f}" == text
  growth = {
    "1.178": (jnp.tanh, 1.59254), "1.072": (jax.nn.selu, 1.0),
    "0.153": (jax.nn.sigmoid, 1.84623), "1.036": (jax.nn.elu, 1.24520),
    "1.210": (jnp.tanh, 5 / 3), "0.056": (jax.nn.sigmoid, 1.0),
    "1.004": (jax.nn.selu, 0.75),
  }  # fmt: skip
  for text, (phi, gain) in growth.items():
    q = initjax.meanfield.fixed_point(phi, gain**2, 0.0).q
    slope = initjax.gains.moments(phi, q).derivative_second_moment
    assert f"×{text}" in table
    assert f"{gain**2 * slope:.3f}" == text


def test_the_readme_fits_haiku():
  hk = pytest.importorskip("haiku", reason="an optional peer")
  (block,) = [block for block in readme_blocks() if "hk." in block]
  names = {"hk": hk, "init": initjax.initializers}

  def model(x):
    exec(block.replace("hk.Linear", "layer = hk.Linear"), names)
    return names["layer"](x)

  params = hk.transform(model).init(jax.random.key(0), jnp.ones((1, 256)))
  kernel = params["linear"]["w"]
  assert kernel.shape == (256, 512)
  # 2^17 normal draws: the variance is known to √(2/2^17) = 0.4 %
  assert float(kernel.var()) == pytest.approx(2 / 256, rel=0.02)


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
  for path in (ROOT / "experiments").glob("*/__main__.py"):
    assert f"[`{path.parent.name}`]({path.parent.name}/__main__.py)" in readme
  for figure in re.findall(r"\((\w+/figure\.png)\)", readme):
    assert (ROOT / "experiments" / figure).exists()


def test_no_two_test_files_share_a_name():
  """pytest imports them by their names alone, but for conftest."""
  files = (ROOT / "tests").rglob("*.py")
  names = [path.stem for path in files if path.stem != "conftest"]
  assert len(set(names)) == len(names)
