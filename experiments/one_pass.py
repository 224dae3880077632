"""What does it cost to give every layer unit variance?

Question: how many forward passes, and how much time, does it take to rescale
the kernels of a deep network so that every layer's output has variance 1, and
how exact is the result?

    python -m experiments.one_pass

calibrates a 100-layer ReLU network of width 128 on 256 handwritten digits by
`initjax.calibrate`, as a scan over layers and unrolled, and, if torch is
installed, by the published LSUV algorithm in PyTorch; half a minute on 2 CPU
cores. Expect: one pass instead of 200; 1.2 to 1.3 times a plain pass instead of
about 220 times; variances within 1e-6 of 1 either way, since LSUV divides by
the exact deviation and needs its second pass of each layer only to see that.

Times are medians of compiled runs, each over a plain pass of its own library.

Reference: Mishkin & Matas 2016, "All you need is a good init", algorithm 1.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
from absl import app, flags, logging

import initjax
from experiments import _datasets, _results, _torch_lsuv

Ratios = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Config:
  """What to calibrate."""

  depth: int = 100
  width: int = 128
  batch: int = 256
  tolerance: float = 0.1
  """of LSUV, on the variance"""
  tries: int = 10
  """of LSUV, for each layer"""
  runs: int = 9
  seed: int = 0

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      low = {"seed": 0, "tolerance": 1e-9, "depth": 2}.get(field.name, 1)
      if getattr(self, field.name) < low:
        raise ValueError(f"{field.name} must be at least {low}.")


def scanned(params: dict[str, Any], x: jax.Array) -> jax.Array:
  """The network as a loop, behind a first layer of another shape."""
  layer = lambda h, kernel: (jax.nn.relu(h) @ kernel, None)
  return jax.lax.scan(layer, x @ params["first"], params["others"])[0]


def unrolled(params: dict[str, Any], x: jax.Array) -> jax.Array:
  """The network written out."""
  h = x @ params["first"]
  for kernel in params["others"]:
    h = jax.nn.relu(h) @ kernel
  return h


def variances(params: dict[str, Any], x: jax.Array) -> np.ndarray:
  """Of every layer's output, [depth], by NumPy in float64."""
  h = np.asarray(x, np.float64) @ np.asarray(params["first"], np.float64)
  found = [h.var()]
  for kernel in params["others"]:
    h = np.maximum(h, 0) @ np.asarray(kernel, np.float64)
    found.append(h.var())
  return np.array(found)


def draw(config: Config, features: int) -> dict[str, jax.Array]:
  """Orthogonal kernels, as LSUV starts from."""
  first, others = jax.random.split(jax.random.key(config.seed))
  init = initjax.initializers.orthogonal()
  keys = jax.random.split(others, config.depth - 1)
  return {
    "first": init(first, (features, config.width)),
    "others": jnp.stack([init(key, (config.width,) * 2) for key in keys]),
  }


def ours(
  config: Config, model: Callable[..., Any], params: Any, x: jax.Array
) -> dict[str, float]:
  """One form of the network, calibrated."""
  calibrate = functools.partial(initjax.calibrate, model, statistic="variance")
  programs = {
    name: jax.jit(program).lower(params, x).compile()
    for name, program in (("ours", calibrate), ("plain", model))
  }
  rounds = [
    {name: _timed(program, params, x) for name, program in programs.items()}
    for _ in range(config.runs)
  ]
  seconds = {n: statistics.median(r[n] for r in rounds) for n in programs}
  after, _ = programs["ours"](params, x)
  return {
    "passes": 1,
    "time / plain pass": seconds["ours"] / seconds["plain"],
    "largest |variance - 1|": float(abs(variances(after, x) - 1).max()),
  }


def _timed(program: Any, params: Any, x: jax.Array) -> float:
  start = time.perf_counter()
  jax.block_until_ready(program(params, x))
  return time.perf_counter() - start


def run(config: Config) -> Ratios:
  """What each way takes, by its name."""
  inputs = _datasets.load_inputs("digits", config.batch, config.seed)
  x = jnp.asarray(inputs)
  params = draw(config, inputs.shape[1])
  written = {**params, "others": tuple(params["others"])}
  found = {
    "calibrate, scan": ours(config, scanned, params, x),
    "calibrate, unrolled": ours(config, unrolled, written, x),
  }
  if _torch_lsuv.installed():
    found["LSUV in PyTorch"] = _torch_lsuv.compare(
      inputs,
      [inputs.shape[1], *[config.width] * config.depth],
      seed=config.seed,
      tolerance=config.tolerance,
      tries=config.tries,
      runs=config.runs,
    )
  return found


def print_table(found: Ratios, config: Config) -> None:
  """One row for each quantity."""
  table = rich.table.Table(
    title=f"unit variance in {config.depth} layers of width {config.width}, "
    f"batch {config.batch}",
    box=None,
  )
  table.add_column("", no_wrap=True)
  for name in found:
    table.add_column(name, justify="right")
  for quantity in found["calibrate, scan"]:
    cells = (f"{ratios[quantity]:.3g}" for ratios in found.values())
    table.add_row(quantity, *cells)
  rich.console.Console().print(table)
  if not _torch_lsuv.installed():
    print("torch is not installed: no comparison with LSUV.")


_DEFAULT = Config()
_DEFINE: dict[type, Any] = {
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
}
_FLAGS = {
  field.name: _DEFINE[type(getattr(_DEFAULT, field.name))](
    f"one_pass_{field.name}", getattr(_DEFAULT, field.name), "See Config."
  )
  for field in dataclasses.fields(Config)
}
_OUTPUT = flags.DEFINE_string(
  "one_pass_output_dir", "results", "Where a new directory of results is made."
)


def main(argv: list[str]) -> None:
  """Reads flags, calibrates, prints the table, writes JSON."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)
  try:
    config = Config(**{name: flag.value for name, flag in _FLAGS.items()})
    _results.check_parent(_OUTPUT.value)
  except (ValueError, OSError) as error:
    raise app.UsageError(str(error)) from None
  found = run(config)
  print_table(found, config)
  directory = _results.new_directory(_OUTPUT.value, "one_pass")
  _results.write_json(
    directory / "one_pass.json",
    {"config": dataclasses.asdict(config), "result": found},
  )
  print(f"wrote one_pass.json to {directory}")


if __name__ == "__main__":
  app.run(main)
