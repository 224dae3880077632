"""What does it cost to initialize a model?

Question: how long does it take, and how much memory, to get the variables of a
24-block transformer of 18.9 M parameters from `model.init`, from
`jax.jit(model.init)` and from `initjax.init_variables`?

    python -m experiments.costs.init_cost

takes half a minute on 2 CPU cores. Expect: a first call that takes one fifth of
jit's time (0.19 to 0.20 times) and less than eager's (0.6 times); 17
compilations where eager needs 57 and jit a few, one of them huge; repeated
calls as fast as jit's (1.05 times), 0.4 times eager's; and a large normal drawn
in 1.02 times its own memory, where jax.random takes 4 times that.

A second table compares every initializer that JAX has too with JAX's own, on
one small draw, eager and warm. It should take at most 1.1 times as long, or
5 µs more; the line below the table names those that do not.

Times of repeated calls and draws are medians of runs taken in turn.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import initjax
from experiments.costs import timing
from experiments.runtime.experiment import Experiment, Result, Settings, option
from experiments.runtime.job import Job
from experiments.runtime.launch import launch


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """The model, the side of the large normal, and how many small draws."""

  depth: int = option(24, "Blocks.", low=1)
  width: int = option(256, "Of the stream.", low=1)
  heads: int = option(4, "Of attention.", low=1)
  runs: int = option(5, "Of which the median is taken.", low=1)
  side: int = option(8192, "Of the large square normal.", low=1)
  rounds: int = option(7, "Of small draws; the median is taken.", low=1)
  draws: int = option(20, "Tens of each initializer in a round.", low=1)


class Block(nn.Module):
  """Attention and a perceptron, each behind a norm and around a skip."""

  width: int
  heads: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, time, width] to the same."""
    h = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(self.heads)(h, h)
    h = nn.Dense(4 * self.width)(nn.LayerNorm()(x))
    return x + nn.Dense(self.width)(nn.gelu(h))


class Transformer(nn.Module):
  """Blocks that are written out, as most models are."""

  depth: int
  width: int
  heads: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, time, width] to the same."""
    for _ in range(self.depth):
      x = Block(self.width, self.heads)(x)
    return x


Way = Callable[[jax.Array], Any]


def ways(config: Config) -> dict[str, Way]:
  """From a key to variables."""
  model = Transformer(config.depth, config.width, config.heads)
  x = jnp.zeros((1, 8, config.width))
  return {
    "eager": lambda key: model.init(key, x),
    "jit": _jitted(model, x),
    "ours": lambda key: initjax.init_variables(key, model, x),
  }


def _jitted(model: nn.Module, x: jax.Array) -> Way:
  init = jax.jit(model.init)
  return lambda key: init(key, x)


def first_call(way: Way) -> tuple[float, int]:
  """Seconds and compilations of a call with nothing in JAX's caches."""
  jax.clear_caches()
  compiled: list[str] = []

  def listen(event: str, duration_secs: float, **_: Any) -> None:
    del duration_secs
    if event == "/jax/core/compile/backend_compile_duration":
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    seconds = timing.seconds(way, jax.random.key(0))
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return seconds, len(compiled)


def peak_ratio(draw: Way) -> float:
  """Bytes of result and temporaries over bytes of the result."""
  compiled = jax.jit(draw).lower(jax.random.key(0)).compile()
  memory: Any = compiled.memory_analysis()
  result = memory.output_size_in_bytes
  return float((result + memory.temp_size_in_bytes) / result)


ARGUMENTS: dict[str, tuple[Any, ...]] = {
  "constant": (0.5,),
  "variance_scaling": (1.0, "fan_in", "normal"),
}
"""what an initializer needs to be built; nothing by default"""

SHAPES = {"delta_orthogonal": (3, 8, 8)}
"""what is drawn; (8, 8) by default"""


def shared_names() -> list[str]:
  """The initializers that JAX has too."""
  names = set(initjax.initializers.__all__) - {"Initializer"}
  return sorted(name for name in names if hasattr(jax.nn.initializers, name))


def _draws(module: Any, name: str) -> Callable[[], float]:
  """Seconds of ten draws, built and compiled before."""
  init = getattr(module, name)
  if name not in ("ones", "zeros"):  # which are initializers themselves
    init = init(*ARGUMENTS.get(name, ()))
  shape = SHAPES.get(name, (8, 8))
  ten: Way = lambda key: [init(key, shape) for _ in range(10)][-1]
  ten(jax.random.key(0))
  return functools.partial(timing.seconds, ten, jax.random.key(0))


def draw_costs(rounds: int, draws: int) -> Result:
  """Of each shared initializer, in µs a draw, and those that miss the aim.

  Of each round the median counts, so that a pause of the machine does not.
  """
  owners = {"ours": initjax.initializers, "JAX": jax.nn.initializers}
  timed = {
    name: {owner: _draws(module, name) for owner, module in owners.items()}
    for name in shared_names()
  }
  found = [
    {name: timing.in_turn(pair, draws) for name, pair in timed.items()}
    for _ in range(rounds)
  ]
  columns: dict[str, dict[str, float]] = {
    owner: {
      n: 1e5 * statistics.median(x[n][owner] for x in found) for n in timed
    }
    for owner in owners
  }
  ours, other = columns.values()
  columns["ours / JAX"] = {name: ours[name] / other[name] for name in timed}
  columns["ours - JAX"] = {name: ours[name] - other[name] for name in timed}
  missed = [n for n in timed if ours[n] > max(1.1 * other[n], other[n] + 5)]
  note = f"more than 1.1 times and 5 µs more: {', '.join(missed) or 'none'}"
  return {"title": "one eager draw, µs", "note": note, "columns": columns}


def run(config: Config, job: Job) -> Result:
  """All numbers, by way."""
  del job
  table: dict[str, dict[str, float]] = {}
  for name, way in ways(config).items():
    seconds, compilations = first_call(way)
    table[name] = {"first call, s": seconds, "compilations": compilations}
  key, warm = jax.random.key(0), ways(config)
  for way in warm.values():
    timing.seconds(way, key)
  calls = timing.calls(warm, key)
  for name, seconds in timing.in_turn(calls, config.runs).items():
    table[name]["repeated call, s"] = seconds
  for row in ("first call", "repeated call"):
    ours_takes = table["ours"][f"{row}, s"]
    for column in table.values():
      column[f"{row}: ours / this"] = ours_takes / column[f"{row}, s"]

  def normal(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (config.side, config.side))

  def ours(key: jax.Array) -> Any:
    return initjax.init_variables(key, normal)

  table["jit"]["large normal: peak / result"] = peak_ratio(normal)
  table["ours"]["large normal: peak / result"] = peak_ratio(ours)
  title = f"{config.depth} blocks of width {config.width}"
  draws = draw_costs(config.rounds, config.draws)
  return {"title": title, "note": "", "columns": table, "draws": draws}


def tables(result: Result) -> list[Any]:
  """Ways to draw a model, and small draws."""
  return [*timing.tables(result), *timing.tables(result["draws"])]


EXPERIMENT = Experiment(
  "init_cost",
  Config,
  {
    "smoke": {
      "depth": 2,
      "width": 8,
      "heads": 2,
      "runs": 1,
      "side": 2048,
      "rounds": 1,
      "draws": 1,
    }
  },
  run,
  tables,
)

if __name__ == "__main__":
  launch(EXPERIMENT)
