"""Does everything compile for TPUs, and what would it need?

    pip install -e '.[tpu]'
    python -m experiments.tpu_compile --experiments=rectifiers

compiles every program of the experiments with XLA:TPU for slices that are not
attached, with the runs spread over their chips. Needs no TPU, only libtpu.
Results are a table and a new directory with tpu_compile.json and .png. For each
program, they show the compile time in seconds and, for one chip, the operations
of a call and the memory, or that the memory of a chip is too small; the exit
status is then 1. Operations are XLA's own count: the body of a loop counts
once, however often it runs.
"""

import dataclasses
import functools
import importlib.util
import itertools
import os
import time
from importlib import metadata
from typing import Any, NamedTuple

import jax
from absl import app
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from experiments.common import plots
from experiments.reproduce import __main__ as reproduce
from experiments.runtime.experiment import (
  SCALES,
  Experiment,
  Result,
  Settings,
  option,
  script,
)
from experiments.runtime.job import AXIS, Job, device_mesh
from experiments.runtime.launch import launch
from experiments.runtime.recording import Program
from experiments.runtime.recording import programs as recorded

TOPOLOGIES = ("v5e:2x2", "v6e:2x4")

ENVIRONMENT = {
  "JAX_PLATFORMS": "cpu",
  "TPU_SKIP_MDS_QUERY": "1",  # ask no machine of Cloud where this is
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_MIN_LOG_LEVEL": "2",
}
"""what libtpu must find before JAX loads it"""


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to compile, and for what."""

  experiments: tuple[str, ...] = option(
    reproduce.NAMES, "Which ones.", choices=reproduce.NAMES
  )
  topologies: tuple[str, ...] = option(TOPOLOGIES, "For which slices.")
  most: int = option(1000, "Programs of each experiment.", low=1)
  size: str = option("laptop", "Their scale; as --scale.", choices=SCALES)


class Compiled(NamedTuple):
  """A program on a slice; memory and operations are those of one chip."""

  experiment: str
  program: str
  topology: str
  seconds: float
  flops: float = 0.0
  """of a call, loops counted once"""
  arguments: int = 0
  """bytes"""
  outputs: int = 0
  temporary: int = 0
  too_large: str = ""
  """for the memory of a chip, as XLA says it; then nothing else is known"""

  @property
  def memory(self) -> int:
    """Bytes, all together."""
    return self.arguments + self.outputs + self.temporary


def placed(program: Program, devices: list[Any]) -> tuple[Any, ...]:
  """Its arguments on the devices, as `Job.spread` puts them.

  The first argument that has arrays is the batch: its runs are filled up to a
  multiple of the devices and spread over them; all else is on each.
  """
  mesh = device_mesh(devices)
  whole = NamedSharding(mesh, PartitionSpec())
  split = NamedSharding(mesh, PartitionSpec(AXIS))
  found: list[Any] = []
  batch_is_ahead = True
  for argument in program.arguments:
    leaves = [x for x in jax.tree.leaves(argument) if _is_array(x)]
    if batch_is_ahead and len({x.shape[:1] for x in leaves} - {()}) == 1:
      place = functools.partial(_place, split, len(devices))
    else:
      place = functools.partial(_place, whole, 1)
    batch_is_ahead &= not leaves
    found.append(jax.tree.map(place, argument) if leaves else argument)
  return tuple(found)


def _is_array(leaf: Any) -> bool:
  return isinstance(leaf, jax.ShapeDtypeStruct)


def _place(sharding: NamedSharding, multiple: int, leaf: Any) -> Any:
  if not _is_array(leaf):
    return leaf
  shape = leaf.shape
  if multiple > 1:
    shape = (shape[0] + -shape[0] % multiple, *shape[1:])
  return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)


def compile_for(
  experiment: str, name: str, program: Program, topology: str
) -> Compiled:
  """Compiles a program for a slice as `Job.spread` would run it."""
  slice_ = topologies.get_topology_desc(topology, "tpu")
  arguments = placed(program, list(slice_.devices))
  what = experiment, name, topology
  started = time.monotonic()
  lowered = program.function.lower(*arguments, **program.keywords)
  try:
    done = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    reason = str(error).splitlines()[0]
    return Compiled(*what, time.monotonic() - started, too_large=reason)
  seconds = time.monotonic() - started
  memory: Any = done.memory_analysis()
  costs: Any = done.cost_analysis() or {}
  return Compiled(
    *what,
    seconds,
    float(costs.get("flops", 0.0)),
    memory.argument_size_in_bytes,
    memory.output_size_in_bytes,
    memory.temp_size_in_bytes,
  )


def obstacle() -> str:
  """Why nothing can be compiled for TPUs here; empty if it can."""
  if importlib.util.find_spec("libtpu") is None:
    return "libtpu is not installed: pip install -e '.[tpu]'"
  return ""


def run(config: Config, job: Job) -> Result:
  """Compiles all programs, one after the other.

  Raises:
    app.UsageError: if libtpu is missing, with what to install.
  """
  if obstacle():
    raise app.UsageError(obstacle())
  jax.config.update("jax_platforms", "cpu")
  os.environ.update(ENVIRONMENT)
  found = []
  for name in config.experiments:
    experiment: Experiment = script(name).EXPERIMENT
    programs = recorded(experiment, experiment.at_scale(config.size))
    chosen = list(programs)[: config.most]
    total = len(chosen) * len(config.topologies)
    for topology, label in itertools.product(config.topologies, chosen):
      found.append(compile_for(name, label, programs[label], topology))
      job.advance(f"{label}, {topology}", total, part=name)
  return {
    "libtpu": metadata.version("libtpu"),
    "size": config.size,
    "compiled": found,
    "failed": [one for one in found if one.too_large],
  }


def tables(result: Result) -> list[Any]:
  """Seconds, operations and memory of each program."""
  import rich.table

  drawn = rich.table.Table(
    title=f"XLA:TPU, libtpu {result['libtpu']}, --size={result['size']}; "
    "for one chip",
    box=None,
  )
  for title in ("experiment", "program", "slice"):
    drawn.add_column(title)
  for title in ("seconds", "MFLOP", "MiB"):
    drawn.add_column(title, justify="right", no_wrap=True)
  for one in result["compiled"]:
    drawn.add_row(
      one.experiment,
      one.program,
      one.topology,
      f"{one.seconds:.1f}",
      f"{one.flops / 1e6:,.1f}",
      "too large" if one.too_large else f"{one.memory / 2**20:,.2f}",
    )
  return [drawn]


def figure(result: Result) -> Any:
  """Memory of one chip, for each program and slice."""
  found = result["compiled"]
  drawn, ((axis,),) = plots.grid(1, 1)
  drawn.set_size_inches(8, 1.2 + 0.2 * max(len(found), 4))
  memory = [one.memory / 2**20 for one in found]
  names = [f"{x.experiment}: {x.program}, {x.topology}" for x in found]
  axis.barh(range(len(found)), memory, color=plots.COLORS[0])
  axis.set_yticks(range(len(found)), names, fontsize=7)
  axis.margins(y=0.01)
  axis.invert_yaxis()
  axis.set_xscale("log")
  axis.set_xlabel("arguments, outputs and temporary memory of a chip (MiB)")
  return drawn


EXPERIMENT = Experiment(
  "tpu_compile",
  Config,
  {scale: {"size": scale} for scale in ("smoke", "tpu")},
  run,
  tables,
  figure,
)

if __name__ == "__main__":
  launch(EXPERIMENT)
