"""What does it cost to watch a model?

Question: how much longer, and in how much more memory, does a network run when
`initjax.measure` watches every operation, forward and backward?

    python -m experiments.costs.measuring_cost

compares it with one jitted gradient with respect to the inputs, on a 100-layer
MLP of width 512 and batch 256, as a scan over layers and unrolled. It takes
some 3 minutes on 2 CPU cores. Expect on an idle machine: run time 1.0 to 1.1
times, memory 1.02 to 1.03 times; a first call below 2 times for a scan, and 2.5
to 3 for 100 layers unrolled, each of which XLA compiles anew (1.7 if only a sum
is taken of each). `detail=True` also takes the gradient of every parameter,
which by itself is half as much work again: compare its second ratio. `diagnose`
compiles equal layers once, and nothing for the sums of small arrays; unrolled,
its first call takes 2 to 3 times as long as that of the gradient. If torch is
installed, its hooks take the same statistics, on one thread or all, whichever
is faster. Reading the graph is compared with `jax.make_jaxpr`.

All times are medians of runs taken in turn; compilation has a row of its own.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import initjax
from experiments.costs import timing, torch_hooks
from experiments.runtime.experiment import Experiment, Result, Settings, option
from experiments.runtime.job import Job
from experiments.runtime.launch import launch


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to time."""

  depth: int = option(100, "Layers.", low=1)
  width: int = option(512, "Units of each.", low=1)
  batch: int = option(256, "Inputs.", low=1)
  runs: int = option(9, "Of which the median is taken.", low=1)
  graph_depth: int = option(300, "Layers of the graph that is read.", low=1)


def _layer(h: jax.Array, kernel: jax.Array) -> jax.Array:
  return jax.nn.relu(h @ kernel)


def scanned(kernels: jax.Array, x: jax.Array) -> jax.Array:
  """The network as a loop."""
  return jax.lax.scan(lambda h, w: (_layer(h, w), None), x, kernels)[0]


def unrolled(kernels: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
  """The network written out."""
  for kernel in kernels:
    x = _layer(x, kernel)
  return x


Runs = dict[str, Callable[..., Any]]


def ways(model: Callable[..., Any]) -> Runs:
  """What is timed, as functions of (params, x, cotangent)."""

  def to_inputs(params: Any, x: jax.Array, cotangent: jax.Array) -> Any:
    return jax.vjp(lambda x: model(params, x), x)[1](cotangent)

  def to_parameters(params: Any, x: jax.Array, cotangent: jax.Array) -> Any:
    return jax.vjp(lambda p: model(p, x), params)[1](cotangent)

  def watched(detail: bool) -> Callable[..., Any]:
    return lambda params, x, cotangent: initjax.measure(
      model, params, x, cotangent=cotangent, detail=detail
    )

  return {
    "gradient": to_inputs,
    "parameters": to_parameters,
    "measure": watched(False),
    "detail": watched(True),
  }


def first_call(
  program: Callable[..., Any], arguments: tuple[Any, ...]
) -> float:
  """Seconds to trace, compile and run, with nothing in JAX's caches."""
  jax.clear_caches()
  return timing.seconds(jax.jit(program), *arguments)


def compare(config: Config, form: str) -> dict[str, float]:
  """Ratios for one form of the network."""
  kernels = jax.random.normal(
    jax.random.key(0), (config.depth, config.width, config.width)
  ) * jnp.sqrt(2 / config.width)
  x = jax.random.normal(jax.random.key(1), (config.batch, config.width))
  is_scan = form == "scan"
  params: Any = kernels if is_scan else tuple(kernels)
  arguments = (params, x, jnp.ones_like(x))
  runs = ways(scanned if is_scan else unrolled)
  first = {name: first_call(run, arguments) for name, run in runs.items()}
  compiled = {
    name: jax.jit(run).lower(*arguments).compile() for name, run in runs.items()
  }
  hooked = torch_hooks.networks(kernels, x, watched=True)
  plain = torch_hooks.networks(kernels, x, watched=False)
  timed = {**timing.calls(compiled, *arguments), **hooked, **plain}
  seconds = timing.in_turn(timed, config.runs)
  memory = {name: _temporary_bytes(run) for name, run in compiled.items()}
  ratios = _ratios(seconds, first, memory)
  if not is_scan:
    ratios |= diagnosed(arguments, first["parameters"])
  if hooked:
    ratios |= _against_torch(seconds, list(hooked), list(plain))
  return ratios


def diagnosed(arguments: Any, first: float) -> dict[str, float]:
  """What `diagnose` costs: its first call, against `first`, and another one.

  Apart from what any first call of it does, which a small model takes.
  """
  params, x, cotangent = arguments
  small = jax.tree.map(lambda kernel: kernel[..., :2, :2], params)
  initjax.diagnose(unrolled, small, x[..., :2], cotangent=cotangent[..., :2])
  diagnose = functools.partial(
    timing.seconds, initjax.diagnose, unrolled, params, x, cotangent=cotangent
  )
  jax.clear_caches()
  once, again = diagnose(), diagnose()
  gradient = jax.jit(ways(unrolled)["parameters"])
  lowering = timing.seconds(lambda: gradient.trace(*arguments).lower() and 0)
  program = gradient.lower(*arguments).compile()
  run = min(timing.seconds(program, *arguments) for _ in range(2))
  return {
    "diagnose: first call / gradient of parameters": once / first,
    "diagnose: again / (lowering + 2 gradients)": again / (lowering + 2 * run),
  }


def _ratios(
  seconds: dict[str, float], first: dict[str, float], memory: dict[str, int]
) -> dict[str, float]:
  detail, gradient = seconds["detail"], seconds["gradient"]
  return {
    "run / gradient": seconds["measure"] / gradient,
    "memory / gradient": memory["measure"] / memory["gradient"],
    "first call / gradient": first["measure"] / first["gradient"],
    "detail: run / gradient": detail / gradient,
    "detail: run / gradient of parameters": detail / seconds["parameters"],
  }


def _against_torch(
  seconds: dict[str, float], hooked: list[str], plain: list[str]
) -> dict[str, float]:
  """On as many threads as suit torch; bare gradients show what is left to win.

  The second ratio is what the first would be if watching cost nothing.
  """
  hooks = min(seconds[name] for name in hooked)
  return {
    "run / PyTorch's hooks": seconds["measure"] / hooks,
    "gradient / PyTorch's hooks": seconds["gradient"] / hooks,
    "gradient / PyTorch's": seconds["gradient"]
    / min(seconds[name] for name in plain),
  }


def _temporary_bytes(program: Any) -> int:
  return int(program.memory_analysis().temp_size_in_bytes)


def graph_ratio(config: Config) -> float:
  """Time of `signal_graph` over that of `jax.make_jaxpr`, nothing cached."""
  shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
  arguments = ((shape,) * config.graph_depth, shape)

  def uncached(run: Callable[..., Any]) -> Callable[[], float]:
    def timed() -> float:
      jax.clear_caches()
      return timing.seconds(run, *arguments)

    return timed

  seconds = timing.in_turn(
    {
      "make_jaxpr": uncached(lambda *args: jax.make_jaxpr(unrolled)(*args)),
      "graph": uncached(lambda *a: initjax.signal_graph(unrolled, *a)),
    },
    config.runs,
  )
  return seconds["graph"] / seconds["make_jaxpr"]


def run(config: Config, job: Job) -> Result:
  """All ratios, by form of the network."""
  ratios = {}
  for form in ("scan", "unrolled"):
    ratios[form] = compare(config, form)
    job.advance(form, 3)
  ratios["unrolled"]["signal_graph / make_jaxpr"] = graph_ratio(config)
  job.advance("signal_graph", 3)
  sizes = f"{config.depth} layers of width {config.width}, batch {config.batch}"
  return timing.result(f"measure on {sizes}", "its hooks", ratios)


EXPERIMENT = Experiment(
  "measuring_cost",
  Config,
  {"smoke": {"depth": 3, "width": 8, "batch": 4, "runs": 1, "graph_depth": 3}},
  run,
  timing.tables,
)

if __name__ == "__main__":
  launch(EXPERIMENT)
