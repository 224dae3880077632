"""Breaks the library on purpose, and asks whether a test notices.

    python tests/mutants.py --output before.json      # then change the tests
    python tests/mutants.py --again before.json --output after.json

One mutant is one small change in one function: a sign, a factor, an axis, an
argument swapped, a check dropped, a dtype, a comparison, `and` for `or`. It is
known by its anchor: qualified name, kind of change, and the expression, which
outlive a move to another file. Mutants are drawn by a hash of anchor and seed,
kinds in turn, so that changes elsewhere do not change the draw. A package's own
tests judge it, those of the file first: the default ones, then the slow ones.
The unbroken code goes first; it must pass, and fills the compilation cache.
"""

import argparse
import ast
import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
LONGEST = 900  # seconds of one run; a mutant that needs more counts as caught
PASSED, FAILED, WRONG_USE, NONE_SELECTED = 0, 1, 4, 5
TESTS = {  # of those that have no folder of their own, or more than one
  "_checks": ("initializers", "hard_inputs_test.py", "gains/gain_test.py"),
  "_statistics": ("statistics_test.py", "hard_inputs_test.py", "measurement"),
  "_activations": ("gains", "diagnosis/growth_test.py"),
  "_cli": ("cli_test.py",),
  "_executables": ("model_init/programs_test.py", "model_init", "diagnosis"),
  "_paths": ("paths_test.py", "graph"),
  "_sharding": ("explicit_mesh_test.py", "measurement/reductions_test.py"),
  "graph": ("graph", "measurement"),
}
SYMMETRIC = {  # or not worth a mutant
  "max", "min", "maximum", "minimum", "add", "multiply", "allclose", "zip",
  "isinstance", "getattr", "hasattr",
}  # fmt: skip
OTHER = {
  ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
  ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.Gt, ast.GtE: ast.Lt,
  ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
  ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
DTYPES = {
  "float64": "float32", "float32": "bfloat16", "complex128": "complex64",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, order=True)
class Mutant:
  """A change of one expression: where it is, and what it becomes."""

  package: str
  function: str
  kind: str
  before: str  # the expression it stands in
  after: str  # what is written
  repeat: int = 0  # of equal ones in the function, from the top

  @property
  def anchor(self):
    return f"{self.function} {self.kind} {self.repeat} {self.before}"

  def rank(self, seed):
    return hashlib.sha256(f"{seed} {self.anchor}".encode()).hexdigest()

  def __str__(self):
    return (
      f"{self.package}: {self.function}: {self.kind}: "
      f"{self.before} -> {self.after}"
    )


# The operators: (kind, node to replace, its successor, where it stands)


def _changes(node):
  match node:
    case ast.BinOp(left, op, right) if not (_is_text(left) or _is_text(right)):
      if type(op) in OTHER:
        kind = "sign" if isinstance(op, ast.Add | ast.Sub) else "factor"
        yield kind, node, ast.BinOp(left, OTHER[type(op)](), right), node
    case ast.UnaryOp(ast.USub(), operand) if not isinstance(
      operand, ast.Constant
    ):
      yield "sign", node, operand, node
    case ast.BoolOp(op, values):
      yield "logic", node, ast.BoolOp(OTHER[type(op)](), values), node
    case ast.Compare(left, [op], right) if type(op) in OTHER:
      other = ast.Compare(left, [OTHER[type(op)]()], right)
      yield "comparison", node, other, node
    case ast.Attribute(value, name, context) if name in DTYPES:
      yield "dtype", node, ast.Attribute(value, DTYPES[name], context), node
    case ast.If(test, [ast.Raise()]):
      yield "check", test, ast.Constant(False), test
    case ast.Expr(ast.Call(function) as call) if "check" in ast.unparse(
      function
    ):
      yield "check", call, ast.Constant(None), call
    case ast.Call(function, arguments, keywords):
      for keyword in keywords:
        if keyword.arg in ("axis", "keepdims"):
          yield from _axis(keyword.value, node)
      if _may_be_swapped(function, arguments):
        swapped = [arguments[1], arguments[0], *arguments[2:]]
        yield "argument", node, ast.Call(function, swapped, keywords), node


def _is_text(node):
  """What `-` takes no better than a test would: texts, lists, tuples."""
  kinds = ast.JoinedStr | ast.List | ast.Tuple
  text = isinstance(node, ast.Constant) and isinstance(node.value, str)
  return text or isinstance(node, kinds)


def _axis(value, call):
  try:
    given = ast.literal_eval(value)
  except ValueError:
    return
  other = not given if isinstance(given, bool) else 1 if given == 0 else 0
  yield "axis", value, ast.Constant(other), call


def _may_be_swapped(function, arguments):
  """Two of one kind, in a call that is not symmetric in them."""
  if len(arguments) < 2 or ast.unparse(function).split(".")[-1] in SYMMETRIC:
    return False
  first, second = arguments[:2]
  kinds = ast.Name | ast.Call | ast.Attribute | ast.Subscript | ast.BinOp
  return (
    isinstance(first, kinds)
    and type(first) is type(second)
    and ast.unparse(first) != ast.unparse(second)
  )


# The sites


def _sites(path):
  """(mutant, node) of a file, in order; texts in f-strings left out."""
  package = path.relative_to(ROOT / "initjax").parts[0].removesuffix(".py")
  seen = collections.Counter()

  def visit(node, names):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      names = (*names, node.name)
    elif isinstance(node, ast.JoinedStr | ast.ImportFrom):
      return
    for kind, old, new, place in _changes(node) if names else ():
      key = (".".join(names), kind, ast.unparse(place))
      yield Mutant(package, *key, ast.unparse(new), seen[key]), old
      seen[key] += 1
    for name, child in _children(node):
      if name not in ("annotation", "returns"):
        yield from visit(child, names)

  yield from visit(ast.parse(path.read_text()), ())


def _children(node):
  for name, value in ast.iter_fields(node):
    for child in value if isinstance(value, list) else [value]:
      if isinstance(child, ast.AST):
        yield name, child


def _all_sites():
  """{package: {anchor: (mutant, path, node)}}"""
  found = collections.defaultdict(dict)
  for path in sorted((ROOT / "initjax").rglob("*.py")):
    for mutant, node in _sites(path):
      found[mutant.package].setdefault(mutant.anchor, (mutant, path, node))
  return found


def drawn(sites, seed, number):
  """`number` mutants of each package, kinds in turn; of a module, half."""
  for package, of_package in sites.items():
    ranked = sorted((one.rank(seed), one) for one, *_ in of_package.values())
    turns, order = collections.Counter(), []
    for rank, one in ranked:
      order.append((turns[one.kind], rank, one))
      turns[one.kind] += 1
    is_package = (ROOT / "initjax" / package).is_dir()
    for *_, one in sorted(order)[: number if is_package else number // 2]:
      yield one


def again(sites, earlier, seed):
  """Earlier mutants where they are now; what is gone, in its successor."""
  everywhere = {a: s[0] for of in sites.values() for a, s in of.items()}
  earlier = list(earlier)
  taken = {one.anchor for one in earlier}
  for old in earlier:
    if old.anchor in everywhere:
      yield everywhere[old.anchor]
      continue
    near = [m for a, m in everywhere.items() if a not in taken]
    near.sort(key=lambda m: (m.function != old.function,
                             m.package != old.package,
                             m.kind != old.kind, m.rank(seed)))  # fmt: skip
    taken.add(near[0].anchor)
    print(f"gone      {old}\n  instead {near[0]}", flush=True)
    yield near[0]


# Applying one, and asking the tests


def _write(path, node, text, copy):
  """The file of the copy, with the expression replaced where it stands."""
  lines = path.read_bytes().splitlines(keepends=True)
  start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
  end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
  whole = b"".join(lines)
  target = copy / path.relative_to(ROOT)
  target.write_bytes(whole[:start] + f"({text})".encode() + whole[end:])
  _forget_bytecode(target)
  return target


def _forget_bytecode(path):
  for kept in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
    kept.unlink()


def _tests_of(package, path=None):
  """Its test files, that of `path` first, and its doctests."""
  names = TESTS.get(package, (package,))
  files = [file for name in names for file in _files(ROOT / "tests" / name)]
  if path is not None:
    own = f"{path.stem.strip('_')}_test.py"
    files.sort(key=lambda file: file.name != own)
  module = ROOT / "initjax" / package
  files.append(module if module.is_dir() else module.with_suffix(".py"))
  return [str(file.relative_to(ROOT)) for file in files]


def _files(place):
  return sorted(place.rglob("*_test.py")) or [place]


def _pytest(copy, tests, *options):
  """(status, the first test that failed)."""
  command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "-n0",
             "--tb=no", "-p", "no:cacheprovider", *options, *tests]  # fmt: skip
  cache = {"JAX_COMPILATION_CACHE_DIR": str(copy.parent / "cache")}
  try:
    done = subprocess.run(
      command, cwd=copy, env=cache | os.environ, timeout=LONGEST, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
  except subprocess.TimeoutExpired:
    return FAILED, "it never ended"
  if done.returncode == WRONG_USE:
    raise RuntimeError(f"pytest could not be asked: {done.stdout}")
  lines = [line for line in done.stdout.splitlines() if line.strip()]
  failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
  return done.returncode, (failed or lines[-1:] or ["?"])[0][:120]


def _first_failure(copy, tests):
  """The kind of tests that fail, "default" or "slow", and the first of them."""
  for kind in ("default", "slow"):
    options = ["-m", "slow"] if kind == "slow" else []
    status, which = _pytest(copy, tests, *options)
    if status not in (PASSED, NONE_SELECTED):
      return kind, which
  return "survived", ""


def judge(mutant, site, copy):
  """Whether a test failed, of which kind, which, and after how long."""
  _, path, node = site
  target, begun = _write(path, node, mutant.after, copy), time.perf_counter()
  try:
    caught, by = _first_failure(copy, _tests_of(mutant.package, path))
  finally:
    shutil.copy(path, target)
    _forget_bytecode(target)
  seconds = round(time.perf_counter() - begun)
  return dataclasses.asdict(mutant) | {"caught": caught, "by": by, "s": seconds}


def control(package, copy):
  """Raises unless the unbroken package passes its tests."""
  _, which = _first_failure(copy, _tests_of(package))
  if which:
    raise RuntimeError(f"{package} fails without any mutant: {which}")


def run(mutants, sites, jobs, controlled, tell):
  """Tells the verdict on each, several at a time, each job in its own copy."""
  where = {a: s for of in sites.values() for a, s in of.items()}
  packages = sorted({mutant.package for mutant in mutants})
  with tempfile.TemporaryDirectory() as folder:
    copies = queue.Queue()
    for job in range(jobs):
      copies.put(_copy(pathlib.Path(folder) / str(job)))

    def lend(function, *arguments):
      copy = copies.get()
      try:
        return function(*arguments, copy)
      finally:
        copies.put(copy)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
      if controlled:
        list(pool.map(lambda package: lend(control, package), packages))
      asked = [pool.submit(lend, judge, m, where[m.anchor]) for m in mutants]
      for verdict in concurrent.futures.as_completed(asked):
        tell(verdict.result())


def _copy(target):
  listed = subprocess.check_output(
    ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, text=True
  )
  for name in filter(None, listed.split("\0")):
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / name, target / name)
  return target


def _options():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--number", type=int, default=8, help="of each package")
  parser.add_argument("--package", action="append", help="only these")
  parser.add_argument("--again", help="the mutants of an earlier output")
  parser.add_argument("--output", help="where the verdicts go, as JSON")
  parser.add_argument("--list", action="store_true", help="and break nothing")
  parser.add_argument("--jobs", type=int, default=os.cpu_count())
  parser.add_argument(
    "--control", default=True, action=argparse.BooleanOptionalAction,
    help="whether unbroken code is to pass first",
  )  # fmt: skip
  return parser.parse_args()


def main():
  options, sites, found = _options(), _all_sites(), []
  mutants = list(drawn(sites, options.seed, options.number))
  if options.again:
    earlier = json.loads(pathlib.Path(options.again).read_text())
    mutants = list(again(sites, map(_mutant, earlier), options.seed))
  if options.package:
    mutants = [one for one in mutants if one.package in options.package]
  if options.list:
    print(*mutants, sep="\n")
    return

  def tell(verdict):
    found.append(verdict)
    print(_line(verdict), flush=True)
    if options.output:  # at once, so that nothing is lost
      pathlib.Path(options.output).write_text(json.dumps(found, indent=1))

  run(mutants, sites, options.jobs, options.control, tell)
  print("\nsurvivors first")
  for one in sorted(found, key=lambda one: one["caught"] != "survived"):
    print(_line(one))
  print(dict(collections.Counter(one["caught"] for one in found)))


def _mutant(verdict):
  fields = [field.name for field in dataclasses.fields(Mutant)]
  return Mutant(**{name: verdict[name] for name in fields})


def _line(verdict):
  told = f"{_mutant(verdict)} | {verdict['by']}"
  return f"{verdict['caught']:9}{verdict['s']:4} s  {told}"


if __name__ == "__main__":
  main()
