"""What an experiment is: a question, a config, a run, and how to show it."""

import dataclasses
import importlib
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
  from experiments.runtime.job import Job

Result = dict[str, Any]
"""Numbers and arrays by name, written as JSON but for names with a first _."""

SCALES = ("smoke", "laptop", "tpu")


KINDS = {
  "two errors": "two standard errors of the mean: one in 22 fails by chance",
  "law": "three standard deviations by a law: one in 370 fails by chance",
  "allowance": "what the approximation leaves open, on top of two errors",
  "consistency": "two numbers of this run: no number of the literature",
}
"""what the error of a claim is"""


class Claim(NamedTuple):
  """A number of the literature, or of theory, beside ours."""

  source: str
  """such as "He et al. 2015, Eq. 10" """
  quantity: str
  published: float
  ours: float
  error: float
  """by how much an honest measurement may differ"""
  kind: str = "two errors"
  """of the error, among `KINDS`"""
  why: str = ""
  """what is allowed beyond chance, if anything, and why"""
  shares: str = ""
  """the quantity of another claim made of the same draws: shown, not counted"""

  @property
  def agrees(self) -> bool:
    """Whether the difference is within the error."""
    return bool(abs(self.ours - self.published) <= self.error)

  def allowing(self, extra: float, why: str) -> "Claim":
    """With an allowance on top of its error, and why."""
    return self._replace(error=self.error + extra, kind="allowance", why=why)


class Experiment(NamedTuple):
  """One question, and all that is needed to answer it."""

  name: str
  """of its folder, and of what it writes"""
  config: Any
  """the class: a frozen dataclass made of `option`s; defaults are "laptop" """
  scales: Mapping[str, Mapping[str, Any]]
  """what "smoke" and "tpu" change"""
  run: "Callable[[Any, Job], Result]"
  tables: Callable[[Result], list[Any]]
  """as `rich.table.Table`s"""
  figure: Callable[[Result], Any] | None = None
  """as a `matplotlib.figure.Figure`, if there is one"""
  claims: Callable[[Result], list[Claim]] = lambda result: []
  """what it says of published numbers"""
  page: Callable[[Result], str] | None = None
  """HTML to be written as well, if there is one"""

  def at_scale(self, scale: str, **changes: Any) -> Any:
    """The config of a scale, with changes."""
    if scale not in SCALES:
      raise ValueError(f"scale must be among {SCALES}; got {scale!r}.")
    return self.config(**{**self.scales.get(scale, {}), **changes})


def script(name: str) -> types.ModuleType:
  """The module behind `python -m experiments.NAME`.

  >>> script("vanishing").EXPERIMENT.name
  'vanishing'
  """
  return importlib.import_module(f"experiments.{name}.__main__")


def option(
  default: Any,
  text: str,
  *,
  low: float | None = None,
  high: float | None = None,
  multiple: int = 1,
  choices: typing.Iterable[str] | None = None,
  kind: type | None = None,
  repeats: bool = False,
) -> Any:
  """A field of a config, which becomes a flag of that name.

  Args:
    default: an int, float, bool, str, or a tuple of one of them.
    text: what it is, for `--help`.
    low: the least value allowed, of each entry.
    high: the greatest.
    multiple: of what each entry must be a multiple.
    choices: the values allowed.
    kind: type of an entry; needed only for a tuple that is empty by default.
    repeats: whether a tuple may hold the same entry twice.
  """
  known = None if choices is None else tuple(choices)
  entry = default[0] if isinstance(default, tuple) and default else default
  metadata = {
    "text": text, "low": low, "high": high, "multiple": multiple,
    "choices": known, "kind": kind or type(entry), "repeats": repeats,
  }  # fmt: skip
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a config is made from: its options are checked as it is built."""

  def __post_init__(self) -> None:
    check(self)


def check(config: Any) -> None:
  """Every option is within its bounds.

  Raises:
    ValueError: if one is not; it names the option, its value and its bounds.
  """
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    entries = value if isinstance(value, tuple) else (value,)
    if value == () and field.default != ():
      raise ValueError(f"{field.name} must not be empty.")
    for entry in entries:
      _check_entry(field.name, entry, field.metadata)
    twice = [entry for entry in entries if entries.count(entry) > 1]
    if twice and not field.metadata.get("repeats"):
      raise ValueError(f"{field.name} must not hold {twice[0]} twice.")


def _check_entry(name: str, entry: Any, bounds: Mapping[str, Any]) -> None:
  low, high = bounds.get("low"), bounds.get("high")
  multiple, choices = bounds.get("multiple", 1), bounds.get("choices")
  if isinstance(entry, float) and not math.isfinite(entry):
    raise ValueError(f"{name} must be finite; got {entry}.")
  if low is not None and entry < low:
    raise ValueError(f"{name} must be at least {low}; got {entry}.")
  if high is not None and entry > high:
    raise ValueError(f"{name} must be at most {high}; got {entry}.")
  if multiple != 1 and entry % multiple:
    raise ValueError(f"{name} ({entry}) must be a multiple of {multiple}.")
  if choices is not None and entry not in choices:
    raise ValueError(
      f"{name} must be among {', '.join(choices)}; got {entry!r}."
    )
