"""What every experiment does: it runs, shows, writes, and exports.

Each at the smallest size at which all of its parts still run: as few programs
as can be, for compiling them is what takes time. What it measures is tested,
with whole runs, in a file of its own.
"""

import dataclasses
import json
import pathlib

import jax
import jax.export
import pytest
import rich.console

import experiments
from experiments.costs import false_alarms, init_cost, measuring_cost, one_pass
from experiments.runtime import command_line, launch, recording
from experiments.runtime.experiment import KINDS, SCALES, script
from experiments.runtime.job import Job

PLATFORMS = ("cpu", "cuda", "tpu")
SMALLEST = {
  "broken_fans": {},
  "exploding": {
    "variances": (2.0,), "depth": 4, "width": 8, "factors": (0.5, 3.0),
    "descent_steps": 20, "lanczos_steps": 3, "deep": 4, "steps": 20,
  },
  "kaiming": {
    "slopes": (0.0,), "layers": 3, "networks": 2, "seeds": 2, "depths": (4,),
    "width": 8, "steps": 10, "turns": 1, "filters": (2, 3),
  },
  "mu_transfer": {
    "mlp_widths": (4, 8), "mlp_layers": 2, "mlp_rates": 3, "mlp_steps": 5,
    "gpt_widths": (4,), "gpt_depths": (1,), "gpt_steps": 5, "samples": 8,
  },
  "normalization": {
    "scales": (0.1, 1.0), "kinds": ("batch", "none"), "batches": (8,),
    "gradient_depth": 24, "gradient_width": 16, "draws": 2, "depths": (3,),
    "width": 8, "steps": 20,
  },
  "phase_diagram": {
    "resolution": 4, "points": (1, 1), "depth": 10, "widths": (16,), "seeds": 2,
    "pairs": 2, "dataset": "synthetic",
  },
  "rectifiers": {
    "activations": ("relu",), "biases": (0.0,), "steps": 20, "thin": (2,),
    "thin_depth": 2, "thin_networks": 4, "thin_trained": 2, "thin_layers": 2,
    "width": 8,
  },
  "residual": {
    "forward_blocks": 2, "forward_width": 8, "draws": 2,
    "gradient_depths": (2,), "gradient_width": 8, "blocks": (2,),
    "update_blocks": (1, 2), "identity_blocks": (2,), "steps": 20, "width": 8,
  },
  "signal_propagation": {
    "activations": ("relu",), "depth": 4, "width": 8, "seeds": 2,
    "networks": 16, "layers": 3,
    "dataset": "synthetic",
  },
  "symmetry": {
    "constants": (1.0,), "noises": (1e-2, 1e-4), "steps": 10, "images": 16,
  },
  "trainability": {"depths": (3, 4), "steps": 3, "batch": 8, "width": 8},
  "vanishing": {
    "depth": 12, "width": 8, "seeds": 2, "inputs": 4, "variances": (1.0,),
    "train_depth": 3, "steps": 20,
  },
  "xavier": {
    "wide": 8, "narrow": 4, "layers": 2, "pyramids": 2, "depth": 3, "width": 8,
    "seeds": 2, "batch": 8,
  },
}  # fmt: skip
OTHERS = {"reproduce", "tpu_compile", "own_init", "theory_rows"}
"""those whose own tests run them, for others or for long"""
SHOWN = {"kaiming": "2/Var W", "xavier": "fan_geo_avg", "rectifiers": "relu"}
SCRIPTS = [
  path.parent.name
  for path in pathlib.Path(experiments.__path__[0]).glob("*/__main__.py")
]

COSTS = false_alarms, init_cost, measuring_cost, one_pass


def named(name):
  return script(name).EXPERIMENT


def smallest(name):
  return named(name).at_scale("smoke", **SMALLEST[name])


def test_every_experiment_is_here():
  assert {*SMALLEST, *OTHERS} == set(SCRIPTS)


@pytest.mark.parametrize("name", SMALLEST)
def test_a_run_is_shown_and_written(name, tmp_path, monkeypatch):
  """Tables, numbers, claims and figure; and all programs are recorded."""
  experiment, config = named(name), smallest(name)
  recorded = recording.programs(experiment, config)
  spread, ran = Job.spread, set()

  def watched(job, function, *given):
    ran.add(repr(recording.program_of(function, *given)[1:]))
    return spread(job, function, *given)

  monkeypatch.setattr(Job, "spread", watched)
  result = experiment.run(config, Job())
  assert ran == {repr(program[1:]) for program in recorded.values()}
  console = rich.console.Console(width=120)
  with console.capture() as shown:
    for table in experiment.tables(result):
      assert table.row_count
      console.print(table)
  assert SHOWN.get(name, "") in shown.get()
  directory = launch.save(experiment, config, result, str(tmp_path))
  content = json.loads((directory / f"{name}.json").read_text())
  written = json.loads(json.dumps(dataclasses.asdict(config)))
  assert content["config"] == written
  assert set(content["result"]) == {key for key in result if key[0] != "_"}
  claims = experiment.claims(result)
  assert len(content["claims"]) == len(claims)
  for claim in claims:
    assert claim.error >= 0
    assert claim.source
    assert claim.kind in KINDS
    shared = [other for other in claims if other.quantity == claim.shares]
    assert not claim.shares or any(not other.shares for other in shared)
  files = {path.name for path in directory.iterdir()}
  figure = {f"{name}.png"} if experiment.figure else set()
  assert files == {f"{name}.json"} | figure
  for drawn in figure:
    assert (directory / drawn).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", SMALLEST)
def test_every_program_exports(name):
  """For CPU, GPU and TPU, though none is here: traced and lowered only.

  All that a whole run needs, which is more than the smallest one does.
  """
  programs = recording.programs(named(name), named(name).at_scale("smoke"))
  assert programs
  for label, program in programs.items():
    export = jax.export.export(program.function, platforms=PLATFORMS)
    exported = export(*program.arguments, **program.keywords)
    assert exported.platforms == PLATFORMS, label
    assert "callback" not in exported.mlir_module(), label


@pytest.mark.parametrize(
  "module",
  [*map(script, SCRIPTS), false_alarms, init_cost, measuring_cost, one_pass],
)
def test_every_scale_is_accepted(module):
  for scale in SCALES:
    command_line._check_data(module.EXPERIMENT.at_scale(scale))
