"""The words of a report: names of operations, sizes, marks of verdicts."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from initjax.reports._names import short_paths
from initjax.typing import Record, Verdict

NOUNS = {"forward": "signal", "backward": "gradient"}
"""What goes in each direction."""

SEVERITIES = ("error", "warning", "note")
"""The worst first."""

MARKS = {"error": "✗", "warning": "!", "note": "·", "": ""}
"""What stands before a row, by the worst severity of its verdicts."""

NOT_JUDGED = "not judged: initjax.diagnose says what is wrong, if anything is"
NOTHING_SEEN = (
  "nothing to judge: no linear operation of a parameter was found. Pass "
  "(fn, params, *inputs): a function of parameters and inputs, such as "
  "model.apply, and the parameters themselves, not closed over. For an NNX or "
  "Equinox module: fn, params = initjax.functional(module)."
)
_MOST = 4  # parameters that are listed
NOTHING_RAN = (
  "nothing to judge: no sample was given, or no operation ran outside of a "
  "loop of unknown length"
)


def not_followed(missed: Mapping[str, str]) -> str:
  """How many parameters a reading did not follow, and which; "" if none.

  Args:
    missed: for each path the primitive, as in `graph.not_followed`.

  >>> not_followed({"params/mix": "triangular_solve"})
  '1 parameter is used in a way that is not followed: mix (triangular_solve)'
  """
  if not missed:
    return ""
  names = short_paths(missed)
  listed = [f"{names[path]} ({name})" for path, name in missed.items()]
  rest = len(listed) - _MOST
  more = f" and {rest} more" if rest > 0 else ""
  count = f"{len(missed)} parameters are"
  count = "1 parameter is" if len(missed) == 1 else count
  where = ", ".join(listed[:_MOST])
  return f"{count} used in a way that is not followed: {where}{more}"


def repeat_of(record: Record) -> str:
  """Which repeat of a scan, counted from 0."""
  return ",".join(map(str, record["repeat"]))


def fans(record: Record) -> str:
  """Such as "512→2048"; without padding in brackets, if that is less."""
  both = f"{_fan(record['fan_in'])}→{_fan(record['fan_out'])}"
  if not pads(record):
    return both
  valid = (_fan(record[f"valid_fan_{side}"]) for side in ("in", "out"))
  return f"{both} ({'→'.join(valid)})"


def pads(record: Record) -> bool:
  """Whether more than a tenth of an operation's terms are padding."""
  return any(
    record.get(f"valid_fan_{side}", math.inf) < 0.9 * record[f"fan_{side}"]
    for side in ("in", "out")
  )


def _fan(number: float) -> str:
  return f"{number:.0f}" if float(number).is_integer() else f"{number:.1f}"


def size(record: Record, direction: str) -> str:
  """log₂ of the second moment, or in words why there is none."""
  entries = record[f"{direction}_size"]
  nonfinite = record[f"{direction}_nonfinite"]
  exponent = record[f"{direction}_log2_second_moment"]
  if not entries:
    return "not run"
  if nonfinite or math.isnan(exponent) or exponent == math.inf:
    some = 0 < nonfinite < entries
    return (share(nonfinite / entries) + " " if some else "") + "non-finite"
  if exponent == -math.inf:  # the mean over draws is, if one of them is
    all_zero = record[f"{direction}_zeros"] == entries
    return "0 (exact)" if all_zero else "0 (some draws)"
  spread = measured(record, f"{direction}_log2_second_moment_std")
  return decimal(exponent, 2) + ("" if spread is None else f" ±{spread:.2f}")


def measured(record: Record, name: str) -> float | None:
  """A number of a record; None if it is absent or NaN."""
  value = record.get(name)
  return None if value is None or math.isnan(value) else value


def size_range(records: Sequence[Record], direction: str) -> str:
  """The least and the greatest `size`; rows that did not run do not count."""
  cells = [size(record, direction) for record in records]
  exponents = sorted(
    record[f"{direction}_log2_second_moment"]
    for record, cell in zip(records, cells, strict=True)
    if is_number(cell)
  )
  ends = [decimal(each, 1) for each in (exponents[:1] + exponents[-1:])]
  zeros = [cell for cell in cells if is_zero(cell)]
  if zeros:
    ends = [min(zeros), *ends[-1:]]
  if any(map(is_nonfinite, cells)):
    ends = [*ends[:1], "non-finite"]
  return " … ".join(dict.fromkeys(ends)) or "not run"


def decimal(number: float, digits: int) -> str:
  """Rounded, without the minus of a rounded zero.

  >>> decimal(-0.001, 2)
  '0.00'
  """
  return f"{round(number, digits) + 0.0:.{digits}f}"


def is_number(words: str) -> bool:
  """Whether `size` said a number."""
  return words[-1].isdigit()


def is_zero(words: str) -> bool:
  """Whether `size` said that nothing is left."""
  return words.startswith("0 (")


def is_nonfinite(words: str) -> bool:
  """Whether `size` said that something is infinite or NaN."""
  return words.endswith("non-finite")


def share(fraction: float) -> str:
  """A percentage; never 0% for what is there, nor 100% for what is not all.

  >>> share(0.0001), share(0.25), share(0.9999)
  ('<1%', '25%', '>99%')
  """
  if 0 < fraction < 0.01:
    return "<1%"
  return ">99%" if 0.99 < fraction < 1 else f"{fraction:.0%}"


def ordered(verdicts: Iterable[Verdict]) -> list[Verdict]:
  """Errors first, then warnings and notes."""
  return sorted(verdicts, key=lambda each: SEVERITIES.index(each.severity))


def each_fix_once(verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
  """Worst first; a fix that was given before becomes a word of where.

  >>> [v.fix for v in each_fix_once([Verdict("", "note", "", "", "x = 2")] * 2)]
  ['x = 2', '# the same as for 1']
  """
  first: dict[str, int] = {}
  for number, verdict in enumerate(ordered(verdicts), 1):
    given = first.setdefault(verdict.fix, number)
    if verdict.fix and given < number:
      verdict = verdict._replace(fix=f"# the same as for {given}")
    yield verdict


def severities(
  records: Sequence[Record], verdicts: Sequence[Verdict]
) -> list[str]:
  """The worst severity of the verdicts on each row; "" where there is none.

  Raises:
    ValueError: if a verdict names a row that does not exist.
  """
  worst = [""] * len(records)
  for verdict in reversed(ordered(verdicts)):
    for row in verdict.rows:
      if not 0 <= row < len(records):
        raise ValueError(
          f"the verdict {verdict.kind!r} names row {row}, but the report has "
          f"{len(records)} rows, counted from 0; were its records filtered?"
        )
      worst[row] = verdict.severity
  return worst


def row_of(verdict: Verdict, records: Sequence[Record]) -> int:
  """Where its number stands: at the path that it names, if that has a row."""
  named = [
    row for row, record in enumerate(records) if record["path"] == verdict.path
  ]
  shown = [row for row in named if row in verdict.rows]
  return (shown or named or verdict.rows)[0]


def nothing_judged(forward_sizes: Sequence[float]) -> str:
  """Why there was nothing to judge; "" if there was.

  Args:
    forward_sizes: of each row, the number of entries that were measured.
  """
  if not len(forward_sizes):
    return NOTHING_SEEN
  return "" if max(forward_sizes) > 0 else NOTHING_RAN


def conclusion(
  records: Sequence[Record],
  verdicts: Sequence[Verdict] | None,
  missed: Mapping[str, str],
) -> str:
  """What stands where verdicts would; "" if they say it all.

  What was not looked at, or is `missed`, is said beside what is healthy.
  """
  said = nothing_judged([record["forward_size"] for record in records])
  if verdicts is None:
    said = said or NOT_JUDGED
  elif not verdicts:
    said = said or _no_problems(records)
  if not missed or verdicts:  # one of them tells of it
    return said
  return f"{said.removesuffix('.')}; {not_followed(missed)}"


def _no_problems(records: Sequence[Record]) -> str:
  idle = sum(not record["forward_size"] for record in records)
  judged = len(records) - idle
  said = f"no problems found in {judged} operation{'s' * (judged != 1)}"
  return f"{said}; {idle} did not run" if idle else said


def is_healthy(
  records: Sequence[Record],
  verdicts: Sequence[Verdict] | None,
  missed: Mapping[str, str],
) -> bool:
  """Whether everything was judged, and nothing found."""
  ran = all(record["forward_size"] for record in records)
  judged = verdicts is not None and not verdicts and not missed
  return bool(records) and ran and judged


def remarks(records: Sequence[Record]) -> list[str]:
  """What fans in brackets are, if there are any, and where theory stops.

  It does for want of a moment; each reason is given once.
  """
  padded = any(map(pads, records))
  said = ["fans in brackets: without terms that are padding"] * padded
  names = short_paths(record["path"] for record in records)
  found: dict[str, str] = {}
  for record in records:
    found.setdefault(record.get("theory_silent", ""), names[record["path"]])
  return said + [
    f"theory is silent from {name} on: {reason}"
    for reason, name in found.items()
    if reason
  ]
