"""initjax, on the command line.

usage: initjax diagnose PACKAGE.MODULE:OBJECT --input SHAPE [--input SHAPE ...]

commands:
  diagnose   does signal flow through a model, forward and backward, and what
             mends it? Exit code 1 if something is wrong, 0 if nothing is, 2 if
             the question could not be put or there was nothing to judge.

OBJECT is a linen module, an NNX or Equinox module, a pair (fn, params), or a
function or class that returns one of these; it may take arguments key, seed or
rngs. Modules are looked for in the current directory too.

flags:
  --input 'f32[8,28,28,1]'      one for each input of the model: N(0, 1) numbers
  --input 'i32[8,128]:50257'    integers below 50257 (below 2 by default)
  --input batch.npy             real data; of an .npz file every array, in order
  --kwargs 'train=False'        keyword arguments of the model, Python literals
  --seeds 8                     number of draws of the parameters (default 1)
  --fail-on warning             exit code 1 from this severity on: error (the
                                default), warning or note
  --json report.json            writes the records and the verdicts
  --html report.html            writes a page to look at
  --version                     prints the versions of initjax and JAX

dtypes: f16 bf16 f32 f64, i8 i16 i32 i64, u8 u16 u32 u64, bool.
"""

import io
import os
import sys
import textwrap
import traceback
from collections.abc import Mapping, Sequence

import jax
from absl import flags

from initjax._cli import _inputs, _models
from initjax._cli._errors import CallError, on_one_line
from initjax.measurement import SignalReport
from initjax.reports import (
  CATALOGUE,
  GLOSSARY,
  SEVERITIES,
  check_directory,
  check_free,
  versions,
)

__all__ = ["main"]

_USAGE = """usage: initjax diagnose PACKAGE.MODULE:OBJECT --input SHAPE ...
commands: diagnose (does signal flow through a model?)
initjax --help explains all of it
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command in `argv`; what it returns is the exit code."""
  values = _flags()
  try:
    words = values(sys.argv if argv is None else argv)[1:]
    if values.help:
      print(__doc__.partition("\n\n")[2].rstrip())
      print(f"\nwords:\n{_listed(GLOSSARY)}")
      print(f"\nverdicts:\n{_listed(CATALOGUE)}")
      return 0
    if values.version:
      print(", ".join(" ".join(pair) for pair in versions().items()))
      return 0
    _check_call(words, values)
  except flags.Error as error:
    print(f"initjax: {error}\n{_USAGE}", end="", file=sys.stderr)
    return 2
  try:
    return _diagnose(words[1], values)
  except CallError as error:
    print(f"initjax: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("initjax: interrupted", file=sys.stderr)
    return 130  # as shells say of SIGINT
  except Exception:  # a bug of ours, which must not look like a verdict
    traceback.print_exc()
    return 2


def _flags() -> flags.FlagValues:
  """Flags of our own: the model's module may define some of the same name."""
  values = flags.FlagValues()
  values.set_gnu_getopt(True)
  flags.DEFINE_multi_string(
    "input", [], "Shape of an input, or a file.", values
  )
  flags.DEFINE_integer(
    "seeds",
    1,
    "How many draws of the parameters to judge.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_multi_string(
    "kwargs", [], "Keyword arguments of the model.", values
  )
  flags.DEFINE_enum(
    "fail-on",
    "error",
    SEVERITIES,
    "Lowest severity that gives exit code 1.",
    flag_values=values,
  )
  flags.DEFINE_string("json", None, "File to write the records to.", values)
  flags.DEFINE_string("html", None, "File to write the page to.", values)
  flags.DEFINE_boolean(
    "help", False, "Explain all of it.", flag_values=values, short_name="h"
  )
  flags.DEFINE_boolean("version", False, "Of what.", flag_values=values)
  return values


def _listed(words: Mapping[str, str]) -> str:
  """Words, each with what it says, below 80 columns."""
  lines = (f"{word}: {said}." for word, said in words.items())
  wrapper = textwrap.TextWrapper(
    78, initial_indent="  ", subsequent_indent="    "
  )
  return "\n".join(map(wrapper.fill, lines))


def _check_call(words: Sequence[str], values: flags.FlagValues) -> None:
  """Raises flags.Error unless the call makes sense."""
  if not words:
    raise flags.Error("no command given.")
  if words[0] != "diagnose":
    raise flags.Error(f"there is no command {words[0]!r}.")
  if len(words) != 2:
    given = " ".join(words[1:]) or "none"
    raise flags.Error(f"diagnose takes one PACKAGE.MODULE:OBJECT; got {given}.")
  if not values.input:
    raise flags.Error("diagnose needs an --input for each input of the model.")


def _diagnose(path: str, values: flags.FlagValues) -> int:
  """Prints the report, writes it where asked, and judges."""
  flags.FLAGS.mark_as_parsed()  # those of the model's module: their defaults
  if os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())
  with on_one_line():
    for file in filter(None, (values.json, values.html)):
      check_directory(file)  # before the work, not after it
      check_free(file)
    report = _report(path, values)
  _print(report)
  with on_one_line():
    if values.json:
      report.to_json(values.json)
    if values.html:
      report.to_html(values.html)
  failing = SEVERITIES[: SEVERITIES.index(values["fail-on"].value) + 1]
  if any(verdict.severity in failing for verdict in report.verdicts):
    return 1
  if not report.judged:
    print("initjax: nothing was judged; the report says why", file=sys.stderr)
    return 2
  return 0


def _print(report: SignalReport) -> None:
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="replace")  # of what has no stand-in
  try:
    print(report, flush=True)
  except BrokenPipeError:  # the reader, such as `head`, has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(path: str, values: flags.FlagValues) -> SignalReport:
  """What `initjax.diagnose` says of the model at `path`."""
  import initjax

  inputs = _inputs.arrays_of(values.input)
  keywords = _inputs.keywords(values.kwargs)
  seeds = values.seeds
  model = _models.build(path, inputs, seeds, keywords)
  report = initjax.diagnose(
    model.fn,
    model.params,
    *inputs,
    has_aux=model.has_aux,
    draws=seeds if seeds > 1 else None,
  )
  drawn = {"seeds": "0" if seeds == 1 else f"0 to {seeds - 1}"}
  about = {"model": path, "command line inputs": " ".join(values.input)}
  return report.with_about(about | (drawn if model.seeded else {}))
