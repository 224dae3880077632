"""The command line: what it builds, what it says, how it exits."""

import ast
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initjax
from initjax import diagnosis, reports
from initjax._cli import _inputs, main
from initjax._cli._errors import CallError, on_one_line
from initjax.typing import Verdict

MODELS = (pathlib.Path(__file__).parent / "cli_models.txt").read_text()


class Report:
  """Stands for a SignalReport; remembers what it was made of."""

  verdicts: tuple[Verdict, ...] = ()
  judged = True

  def __init__(self, fn, params, *inputs, has_aux=False, draws=None):
    self.params, self.inputs, self.draws = params, inputs, draws
    self.has_aux = has_aux
    one = jax.tree.map(lambda x: x[0], params) if draws else params
    self.outputs = fn(one, *inputs)

  def __str__(self):
    return "the report"

  def with_about(self, about):
    self.about = about
    return self

  def to_json(self, path):
    initjax.reports.write_json(path, {"kind": "report"})

  def to_html(self, path):
    initjax.reports.write_text(path, "<html>")


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
  """Runs the command in a directory with `models.py`, on a fake diagnose."""
  (tmp_path / "models.py").write_text(MODELS)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [*sys.path])
  made = []

  def diagnose(*args, **options):
    made.append(Report(*args, **options))
    return made[-1]

  monkeypatch.setattr(initjax, "diagnose", diagnose, raising=False)

  def run(*words):
    sys.modules.pop("models", None)
    for name in ("seeds", "width"):
      if name in initjax._cli.flags.FLAGS:
        delattr(initjax._cli.flags.FLAGS, name)
    code = main(["initjax", *words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err, made[-1] if made else None

  yield run
  sys.modules.pop("models", None)


def leaves(report):
  return [leaf.shape for leaf in jax.tree.leaves(report.params)]


INPUT = "--input=f32[2,8]"
OBJECTS = [
  "plain", "Plain", "module", "Nnx", "pair", "from_key",
  "from_seed", "from_rngs", "without_arguments", "Holder.model",
]  # fmt: skip


@pytest.mark.parametrize("name", OBJECTS)
def test_every_kind_of_model_is_built(call, name):
  code, out, err, report = call("diagnose", f"models:{name}", INPUT)
  assert (code, out, err) == (0, "the report\n", "")
  assert not report.has_aux
  assert report.outputs.shape[0] == 2


def test_batch_statistics_may_change(call):
  report = call("diagnose", "models:linen", INPUT)[-1]
  assert report.has_aux
  assert report.outputs[0].shape[0] == 2
  assert set(report.outputs[1]) == {"batch_stats"}


SEEDED = ["plain", "Plain", "Nnx", "from_key", "from_seed", "from_rngs"]


@pytest.mark.parametrize("name", SEEDED)
def test_seeds_are_draws_along_a_first_axis(call, name):
  words = ("diagnose", f"models:{name}", INPUT)
  one = call(*words)[-1]
  several = call(*words, "--seeds=3")[-1]
  assert (one.draws, several.draws) == (None, 3)
  assert leaves(several) == [(3, *shape) for shape in leaves(one)]
  drawn, kernel = (
    np.asarray(max(jax.tree.leaves(report.params), key=np.size))
    for report in (several, one)
  )
  assert not np.array_equal(drawn[0], drawn[1])
  np.testing.assert_allclose(drawn[0], kernel)


def test_an_error_among_the_verdicts_is_exit_code_1(call, monkeypatch):
  for severity, wanted in (("note", 0), ("warning", 0), ("error", 1)):
    verdict = Verdict("dead units", severity, "", "", "")
    monkeypatch.setattr(Report, "verdicts", (verdict,))
    assert call("diagnose", "models:pair", INPUT)[0] == wanted


def test_what_fails_is_for_the_caller_to_say(call, monkeypatch):
  for severity, failing in (("note", "note"), ("warning", "warning note")):
    verdict = Verdict("dead units", severity, "", "", "")
    monkeypatch.setattr(Report, "verdicts", (verdict,))
    for flag in ("error", "warning", "note"):
      words = ("diagnose", "models:pair", INPUT, f"--fail-on={flag}")
      assert call(*words)[0] == (flag in failing.split())


def test_keywords_reach_the_model(call):
  code, _, err, report = call(
    "diagnose", "models:flagged", INPUT, "--kwargs=train=False"
  )
  assert (code, err) == (0, "")
  assert report.outputs.shape == (2, 4)
  assert report.about["model"] == "models:flagged"


def test_real_data_comes_from_files(call):
  x = np.arange(16, dtype=np.float32).reshape(2, 8)
  np.save("x.npy", x)
  np.savez("xy.npz", x=x, y=x + 1)
  *_, report = call("diagnose", "models:pair", "--input=x.npy")
  np.testing.assert_array_equal(report.inputs[0], x)
  code, _, err, _ = call("diagnose", "models:pair", "--input=xy.npz")
  assert code == 2
  assert "takes 2 positional arguments but 3 were given" in err


def test_an_interrupt_is_one_line(call, monkeypatch):
  def interrupted(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(initjax, "diagnose", interrupted)
  code, _, err, _ = call("diagnose", "models:pair", INPUT)
  assert (code, err) == (130, "initjax: interrupted\n")


def test_versions_are_told(call):
  code, out, _, _ = call("--version")
  start = f"initjax {initjax.__version__}, jax {jax.__version__}, "
  assert (code, out.startswith(start)) == (0, True)


def test_nothing_judged_is_exit_code_2(call, monkeypatch):
  monkeypatch.setattr(Report, "judged", False)
  code, out, err, _ = call("diagnose", "models:pair", INPUT)
  assert (code, out, err.count("\n")) == (2, "the report\n", 1)
  assert "nothing was judged" in err


def test_files_are_written_once(call, tmp_path):
  words = ("diagnose", "models:pair", INPUT)
  files = ("--json=a.json", f"--html={tmp_path / 'a.html'}")
  assert call(*words, *files)[0] == 0
  assert json.loads((tmp_path / "a.json").read_text()) == {"kind": "report"}
  assert (tmp_path / "a.html").read_text() == "<html>"
  code, out, err, _ = call(*words, files[0])
  assert (code, out, err.count("\n")) == (2, "", 1)  # before any work
  assert "a.json already exists" in err


@pytest.mark.parametrize(
  ("words", "error"),
  [
    ("nowhere.models:f", "there is no module 'nowhere' in "),
    ("models.deeper:f", "there is no module 'models.deeper' in "),
    ("models", "names no object; expected PACKAGE.MODULE:OBJECT"),
    ("./models.py:linen", "names a file; expected a module: models:linen"),
    ("models:linnen", "models has no 'linnen'; it has linen"),
    ("models:Holder.absent", "has no 'absent'"),
    ("models:number", "is an object of type int; expected a linen, NNX or "),
    ("models:transform", "is a pair of init and apply; expected a linen, "),
    ("models:wide", "needs arguments width; expected a function or class"),
    ("models:broken", "KeyError: 'depth' (models.py:"),
    ("models:wrong_pair", "TypeError: dot_general requires contracting"),
    ("models:module --input=f32[2,9]", "dot_general requires contracting"),
    (
      "models:pair --input=f99[2,8]",
      "an unknown dtype; expected one of bool, bf16, f16",
    ),
    (
      "models:pair --input=f32[2;8]",
      "is not a shape; expected something like f32[8,28",
    ),
    ("models:pair --input=f32[2,,8]", "has an empty dimension"),
    ("models:pair --input=f32[0,8]", "dimensions are at least 1"),
    ("models:pair --input=f32[99999999999,8]", "is larger than 16 GiB"),
    ("models:flagged", "such as --kwargs train=False."),
    ("models:pair --input=f64[2,8]", "JAX_ENABLE_X64=1"),
    ("models:pair --input=f32[2,8]:7", "only integers can have a bound"),
    (
      "models:pair --input=i8[2,8]:700",
      "bound of int8 must be between 1 and 127",
    ),
    ("models:pair --json=absent/a.json", "there is no directory absent"),
    (
      "models:pair --seeds=3",
      "--seeds=3 needs different parameters for each seed",
    ),
    ("models:pair --seeds=3", "an argument named key, seed or rngs"),
    ("models:pair --input=absent.npz", "there is no such file"),
    ("models:pair --input=models.npy", "does not hold plain arrays"),
    ("models:pair --kwargs=train", "is not of the form name=literal; expected"),
    (
      "models:pair --kwargs=x=f(1)",
      "is not of the form name=literal; expected",
    ),
    ("models:pair --kwargs=**{}", "is not of the form name=literal; expected"),
  ],
)
def test_a_mistake_is_named_on_one_line(call, words, error):
  words = words.split()
  if not any(word.startswith("--input") for word in words):
    words.append(INPUT)
  pathlib.Path("models.npy").write_bytes(b"no array")
  code, out, err, _ = call("diagnose", *words)
  assert (code, out) == (2, "")
  assert err.startswith("initjax: ")
  assert err.count("\n") == 1
  assert error in err


def test_an_error_in_the_model_tells_its_line(call):
  *_, err, _ = call("diagnose", "models:wrong_pair", INPUT)
  line = 1 + MODELS[: MODELS.index("  return x @ jnp.ones((3, 3))")].count("\n")
  assert f"(models.py:{line})" in err


@pytest.mark.parametrize(
  ("text", "error"),
  [
    ("import absent_library", "No module named 'absent_library' (bad.py:1)"),
    ("x = (", "SyntaxError: '(' was never closed"),
    ("raise SystemExit('no main')", "SystemExit: no main (bad.py:1)"),
  ],
)
def test_a_module_that_cannot_be_imported_tells_why(
  call, tmp_path, text, error
):
  (tmp_path / "bad.py").write_text(text)
  sys.modules.pop("bad", None)
  code, _, err, _ = call("diagnose", "bad:model", "--input=f32[2]")
  assert (code, err.count("\n")) == (2, 1)
  assert error in err


def test_an_error_of_our_own_is_no_verdict(call, monkeypatch):
  """Exit code 1 is for sick models; a bug exits with 2 and its traceback."""
  ours = {"__name__": "initjax.bug", "on_one_line": on_one_line}
  exec("def run(*_, **__):\n  with on_one_line():\n    {}['bug']", ours)
  with pytest.raises(KeyError, match="bug"):
    ours["run"]()
  monkeypatch.setattr(initjax, "diagnose", ours["run"])
  code, _, err, _ = call("diagnose", "models:pair", INPUT)
  assert code == 2
  assert "Traceback" in err
  assert "KeyError: 'bug'" in err


@pytest.mark.parametrize(
  ("words", "error"),
  [
    ("", "no command given"),
    ("diagnos", "no command 'diagnos'"),
    ("diagnose", "takes one PACKAGE.MODULE:OBJECT; got none"),
    ("diagnose a:b c:d --input=f32[1]", "got a:b c:d"),
    ("diagnose a:b", "needs an --input"),
    ("diagnose a:b --inputs=f32[1]", "Unknown command line flag 'inputs'"),
    ("diagnose a:b --input=f32[1] --seeds=0", "seeds"),
  ],
)
def test_a_wrong_call_shows_usage(call, words, error):
  code, out, err, _ = call(*words.split())
  assert (code, out) == (2, "")
  assert error in err
  assert "usage: initjax diagnose" in err
  assert "commands: diagnose" in err


def test_help_is_printed(call):
  code, out, err, _ = call("--help")
  assert (code, err) == (0, "")
  assert out.startswith("usage: initjax diagnose")
  for flag in ("--input", "--seeds", "--json", "--html"):
    assert flag in out


def kinds_of_verdicts():
  """Texts with which the library begins a verdict; of an f-string its parts."""
  folder = pathlib.Path(diagnosis.__file__).parent
  for path in folder.glob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Call) and ast.unparse(node.func) == "Verdict":
        for part in ast.walk(node.args[0]):
          if isinstance(part, ast.Constant) and part.value.strip():
            yield part.value.strip()


def test_help_knows_every_kind_of_verdict():
  known = ", ".join(reports.CATALOGUE).split(", ")
  found = {*kinds_of_verdicts()}
  assert len(found) > 20
  for kind in found:
    assert any(each in kind or kind in each for each in known), kind


def test_inputs_follow_their_law():
  key, count = jax.random.key(0), 4096
  normal = _inputs.draw(key, _inputs.parse(f"f32[{count}]"))
  assert abs(normal.mean()) < 4 / math.sqrt(count)
  assert abs((normal**2).mean() - 1) < 4 * math.sqrt(2 / count)
  integers = _inputs.draw(key, _inputs.parse(f"u8[{count}]:7"))
  assert integers.dtype == jnp.uint8
  assert set(integers.tolist()) == set(range(7))
  coins = _inputs.draw(key, _inputs.parse("i32[64]"))
  assert set(coins.tolist()) == {0, 1}
  assert _inputs.draw(key, _inputs.parse("bf16[]")).dtype == jnp.bfloat16
  for text, message in (
    ("[3]", "not a shape"),
    (f"f32[{2**32 + 1}]", "16 GiB"),
  ):
    with pytest.raises(CallError, match=message):
      _inputs.parse(text)
  assert _inputs.parse(f"f32[{2**32}]").shape == (2**32,)


SICK = """
import jax


def model(key):
  kernels = jax.random.normal(key, (12, 16, 16)) / 64**0.5  # he: an eighth

  def fn(kernels, x):
    layer = lambda h, kernel: (jax.nn.relu(h @ kernel), None)
    return jax.lax.scan(layer, x, kernels)[0]

  return fn, kernels
"""


def test_from_the_shell_a_sick_model_is_found_and_written(tmp_path):
  """As a process of its own, printing to a terminal that knows no ✗."""
  (tmp_path / "sick.py").write_text(SICK)
  command = "-m initjax diagnose sick:model --input f32[16,16] --json a.json"
  paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
  done = subprocess.run(
    [sys.executable, *command.split()], cwd=tmp_path, text=True, check=False,
    env=os.environ | paths | {"PYTHONIOENCODING": "ascii"}, capture_output=True,
  )  # fmt: skip
  assert done.returncode == 1, done.stderr
  assert "x 1. vanishing signal" in done.stdout
  assert "?" not in done.stdout
  records = json.loads((tmp_path / "a.json").read_text())["records"]
  assert len(records) == 12
