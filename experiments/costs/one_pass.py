"""What does it cost to give every layer unit variance?

Question: how many forward passes, and how much time, does it take to rescale
the kernels of a deep network so that every layer's output has variance 1, and
how exact is the result?

    python -m experiments.costs.one_pass

calibrates a 100-layer ReLU network of width 128 on 256 handwritten digits with
`initjax.calibrate`, as a scan over layers and unrolled, and, if torch is
installed, with the published LSUV algorithm in PyTorch. It takes half a minute
on 2 CPU cores. Expect: one pass instead of 200; 1.2 to 1.3 times the time of a
plain pass instead of about 220 times; variances within 1e-6 of 1 either way,
since LSUV divides by the exact deviation and needs its second pass of each
layer only to confirm this.

Times are medians of compiled runs, relative to a plain pass of the same
library.

Reference: Mishkin & Matas 2016, "All you need is a good init", algorithm 1.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import initjax
from experiments.costs import timing, torch_lsuv
from experiments.data import datasets
from experiments.runtime.experiment import Experiment, Result, Settings, option
from experiments.runtime.job import Job
from experiments.runtime.launch import launch


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to calibrate."""

  depth: int = option(100, "Layers.", low=2)
  width: int = option(128, "Units of each.", low=1)
  batch: int = option(256, "Inputs.", low=1)
  dataset: str = option("digits", "What goes in.", choices=datasets.INPUTS)
  tolerance: float = option(0.1, "Of LSUV, on the variance.", low=1e-9)
  tries: int = option(10, "Of LSUV, for each layer.", low=1)
  runs: int = option(9, "Of which the median is taken.", low=1)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)


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
  calls = timing.calls(programs, params, x)
  seconds = timing.in_turn(calls, config.runs)
  after, _ = programs["ours"](params, x)
  return {
    "passes": products(calibrate, params, x) / products(model, params, x),
    "time / plain pass": seconds["ours"] / seconds["plain"],
    "largest |variance - 1|": float(abs(variances(after, x) - 1).max()),
  }


def products(function: Callable[..., Any], *arguments: Any) -> int:
  """Matrix products in the graph of a function; the body of a loop once."""
  return str(jax.make_jaxpr(function)(*arguments)).count("dot_general")


def run(config: Config, job: Job) -> Result:
  """What each way takes, by its name."""
  del job
  inputs = datasets.load_inputs(config.dataset, config.batch, config.seed)
  x = jnp.asarray(inputs)
  params = draw(config, inputs.shape[1])
  written = {**params, "others": tuple(params["others"])}
  found = {
    "calibrate, scan": ours(config, scanned, params, x),
    "calibrate, unrolled": ours(config, unrolled, written, x),
  }
  if timing.torch_is_installed():
    found["LSUV in PyTorch"] = torch_lsuv.compare(
      inputs,
      [inputs.shape[1], *[config.width] * config.depth],
      seed=config.seed,
      tolerance=config.tolerance,
      tries=config.tries,
      runs=config.runs,
    )
  sizes = f"{config.depth} layers of width {config.width}, batch {config.batch}"
  return timing.result(f"unit variance in {sizes}", "LSUV", found)


EXPERIMENT = Experiment(
  "one_pass",
  Config,
  {"smoke": {"depth": 4, "width": 16, "batch": 32, "runs": 1}},
  run,
  timing.tables,
)

if __name__ == "__main__":
  launch(EXPERIMENT)
