"""Do the results agree with the papers, and with theory?

Question: which of the numbers in the literature are reproduced, and within what
error?

    python -m experiments.reproduce

runs the experiments at `--scale=smoke`, `laptop` or `tpu` (laptop: some 15
minutes on 2 CPU cores; smoke: six, but too small to agree everywhere) and puts
each published number beside ours. Claims based on the same draws are counted
once. Each claim states what its error is: two standard errors, which one in 22
exceeds by chance at another seed; three standard deviations according to a law;
or an allowance, with the reason for it.

`mu_transfer` takes half an hour more. It runs only on request, with
`--experiments=mu_transfer`, and at `--scale=tpu`. In its results, the slope of
the GPT's best rate in μP was 0.18 with two seeds, where 0.15 is allowed.

Results go to a new directory: reproduce.json, reproduce.png (every difference
in units of its error) and reproduce.html, one page with all figures and tables.
"""

import dataclasses
import time
import traceback
from typing import Any

import numpy as np

from experiments.common import page as pages
from experiments.common import plots
from experiments.runtime.experiment import (
  SCALES,
  Claim,
  Experiment,
  Result,
  Settings,
  option,
  script,
)
from experiments.runtime.job import Job
from experiments.runtime.launch import launch

NAMES = (
  "signal_propagation", "phase_diagram", "vanishing", "exploding", "symmetry",
  "xavier", "kaiming", "rectifiers", "normalization", "residual",
  "trainability", "broken_fans", "mu_transfer",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to run, and how large."""

  experiments: tuple[str, ...] = option(
    tuple(name for name in NAMES if name != "mu_transfer"),
    "Which ones.",
    choices=NAMES,
  )
  size: str = option("laptop", "Their scale; as --scale.", choices=SCALES)


def run(config: Config, job: Job) -> Result:
  """Runs them one after the other; one that fails does not stop the others."""
  sections = []
  for name in config.experiments:
    sections.append(_section(name, config.size, job))
    job.advance(name, len(config.experiments))
  return {
    "size": config.size,
    "seconds": {section.name: section.seconds for section in sections},
    "failed": {s.name: s.failure for s in sections if s.failure},
    "_sections": sections,
  }


def _section(name: str, size: str, job: Job) -> pages.Section:
  """Runs one, and keeps what it shows."""
  module = script(name)
  experiment: Experiment = module.EXPERIMENT
  text = module.__doc__ or name
  started = time.monotonic()
  try:
    result = experiment.run(experiment.at_scale(size), job.part(name))
    seconds = time.monotonic() - started
    figure = experiment.figure(result) if experiment.figure else None
    shown = experiment.claims(result), experiment.tables(result), figure
    return pages.Section(name, text, seconds, *shown)
  except Exception as error:
    traceback.print_exc()
    seconds = time.monotonic() - started
    failure = f"{type(error).__name__}: {error}"
    return pages.Section(name, text, seconds, [], [], None, failure)


def claims(result: Result) -> list[Claim]:
  """Those of all experiments."""
  return [claim for s in result["_sections"] for claim in s.claims]


def tables(result: Result) -> list[Any]:
  """Source, published number, ours, and whether they agree."""
  import rich.table
  from rich.markup import escape

  found = claims(result)
  table = rich.table.Table(title=pages.summary(found), box=None, pad_edge=False)
  table.add_column("source")
  table.add_column("quantity")
  for heading in ("published", "ours", "± error"):
    table.add_column(heading, justify="right", no_wrap=True)
  table.add_column("error is", no_wrap=True)
  table.add_column("agree", no_wrap=True)
  for section in result["_sections"]:
    table.add_row(f"[bold underline]{section.name}")
    if section.failure:
      table.add_row("[red]failed", escape(section.failure))
    for claim in section.claims:
      table.add_row(
        escape(claim.source),
        escape(claim.quantity),
        *pages.numbers(claim),
        "(same draws)" if claim.shares else claim.kind,
        "yes" if claim.agrees else "[red]no",
      )
  return [table]


def figure(result: Result) -> Any:
  """(ours - published)/error of every number; ±1 is between the lines."""
  found = [
    (section.name, claim)
    for section in result["_sections"]
    for claim in section.claims
  ]
  drawn, ((axis,),) = plots.grid(1, 1)
  drawn.set_size_inches(9, 1.2 + 0.22 * max(len(found), 4))
  for row, (_, claim) in enumerate(found):
    color = plots.COLORS[0] if claim.agrees else plots.COLORS[1]
    axis.plot(_sigmas(claim), row, "o" if claim.agrees else "X", color=color)
  axis.set_yticks(
    range(len(found)),
    [f"{name}: {_short(claim.quantity)}" for name, claim in found],
    fontsize=7,
  )
  axis.set_ylim(len(found) - 0.5, -0.5)
  for edge in (-1, 1):
    axis.axvline(edge, color="0.4", **plots.THEORY)
  axis.set_xlabel("(ours - published) / error; beyond ±4 at the edge")
  axis.set_xlim(-4.2, 4.2)
  return drawn


def _sigmas(claim: Claim) -> float:
  """The difference in units of its error, -4 to 4."""
  difference = claim.ours - claim.published
  if difference == 0:
    return 0.0
  if not np.isfinite(difference):
    return 4.0
  error = claim.error or 1e-300
  return float(np.clip(difference / error, -4, 4))


def _short(text: str, most: int = 60) -> str:
  return text if len(text) <= most else text[: most - 1] + "…"


def page(result: Result) -> str:
  """All of it as HTML."""
  minutes = sum(result["seconds"].values()) / 60
  subtitle = f"--scale={result['size']}, {minutes:.0f} minutes"
  title = "initjax: what the papers say, measured"
  return pages.page(title, subtitle, result["_sections"])


EXPERIMENT = Experiment(
  "reproduce",
  Config,
  {"smoke": {"size": "smoke"}, "tpu": {"size": "tpu", "experiments": NAMES}},
  run,
  tables,
  figure,
  claims,
  page=page,
)

if __name__ == "__main__":
  launch(EXPERIMENT)
