"""How far does theory reach in real architectures, row by row?

Question: which sizes of signals and gradients in a GPT, a ViT, a ResNet-18
(train and eval), a U-Net and a Llama does `initjax.predict` know at
initialization, and is it right within the errors that it states?

    python -m experiments.theory_rows

draws the kernels of each network 200 times at small width, sends random inputs
forward and a random gradient backward, and compares the mean second moment of
every operation with the prediction. It reports the difference, the standard
error, the stated error, and z, the difference beyond the stated error in units
of the standard error. It takes a few minutes on 2 CPU cores. Expect: at least
three quarters of the rows are predicted in both directions, and every |z| is
below 4.

Reference: Dong et al. 2021, "Attention is not all you need"; Noci et al. 2022,
"Signal propagation in transformers".
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import initjax
from experiments.runtime.experiment import Experiment, Result, Settings, option
from experiments.runtime.job import Job
from experiments.runtime.launch import launch
from experiments.theory_rows.networks import WORDS, networks


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to draw."""

  draws: int = option(200, "Of every network.", low=2)
  depth: int = option(4, "Blocks of the transformers.", low=1)
  only: str = option("", "The networks whose names begin so.")
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)


class Rows(NamedTuple):
  """Of one network, [directions, rows]."""

  paths: list[str]
  predicted: np.ndarray
  """log₂; NaN where theory does not know"""
  stated: np.ndarray
  """error in bits"""
  measured: np.ndarray
  """log₂ of the mean over draws"""
  standard_error: np.ndarray

  @property
  def z(self) -> np.ndarray:
    """Beyond the stated error, in standard errors."""
    off = abs(self.predicted - self.measured) - self.stated
    return np.maximum(off, 0.0) / np.maximum(self.standard_error, 1e-6)


def deviation(path: str, shape: tuple[int, ...]) -> float:
  """Of the entries: He for kernels of convolutions, else 1/√fan_in."""
  if len(shape) < 2 or path.endswith("bias"):
    return 0.0
  if "words" in path or "places" in path:
    return 1.0
  is_out = "out/" in path  # of heads, both of which are summed
  fan_in = math.prod(shape[:-1]) if is_out or len(shape) == 4 else shape[0]
  return math.sqrt((2.0 if len(shape) == 4 else 1.0) / fan_in)


def kernels(shapes: Any, entries: Any) -> Any:
  """Parameters with such entries [...], scaled; scales 1 and biases 0."""

  def leaf(path: Any, shape: Any) -> Any:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if name.endswith(("scale", "var")):
      return jnp.ones(shape.shape)
    return deviation(name, shape.shape) * entries(name, shape.shape)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def certain(name: str, shape: tuple[int, ...]) -> jax.Array:
  """Signs: a mean square of exactly 1, for theory."""
  number = sum(map(ord, name))
  values = np.where(np.arange(math.prod(shape)) % 2, 1.0, -1.0)
  mixed = np.random.default_rng(number).permutation(values)
  return jnp.asarray(mixed.reshape(shape), jnp.float32)


def drawn(key: jax.Array, name: str, shape: tuple[int, ...]) -> jax.Array:
  """Standard normal entries."""
  own = jax.random.fold_in(key, sum(map(ord, name)))
  return jax.random.normal(own, shape)


def compare(config: Config, name: str) -> Rows:
  """Theory and draws of one network."""
  model, inputs = networks(config.depth)[name]
  shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
  fn: Any = model.apply
  if "train" in name:
    fn = lambda v, x: model.apply(v, x, mutable=["batch_stats"])[0]

  def squares(key: jax.Array) -> jax.Array:
    own, data, back = jax.random.split(key, 3)
    params = kernels(shapes, functools.partial(drawn, own))
    if jnp.issubdtype(inputs.dtype, jnp.integer):
      x = jax.random.randint(data, inputs.shape, 0, WORDS)
    else:
      x = jax.random.normal(data, inputs.shape)
    report = initjax.measure(fn, params, x, key=back)
    both = (report.forward, report.backward)
    return jnp.exp2(
      jnp.array([[row.log2_second_moment for row in rows] for rows in both])
    )

  keys = jax.random.split(jax.random.key(config.seed), config.draws)
  measured = np.array(jax.jit(functools.partial(jax.lax.map, squares))(keys))
  measured[:, 1] /= measured[:, 1, -1:].mean(axis=0)
  params = kernels(shapes, certain)
  theory = initjax.predict(fn, params, inputs)
  graph = initjax.signal_graph(fn, params, inputs)
  mean = measured.mean(axis=0)
  error = measured.std(axis=0) / mean / math.sqrt(config.draws) / math.log(2)
  return Rows(
    [row.op.path for row in graph.rows],
    np.stack([theory.forward, theory.backward]),
    np.stack([theory.forward_error, theory.backward_error]),
    np.log2(mean),
    error,
  )


def run(config: Config, job: Job) -> Result:
  """Every network's rows."""
  del job
  found = {
    name: compare(config, name)
    for name in networks(config.depth)
    if name.startswith(config.only)
  }
  return {"networks": {name: rows._asdict() for name, rows in found.items()}}


def tables(result: Result) -> list[Any]:
  """Two for each network, and one of all."""
  from rich.table import Table

  summary = Table("network", "known", "median ±", "largest ±", "largest z")
  shown = []
  for name, fields in result["networks"].items():
    rows = Rows(**{key: _array(value) for key, value in fields.items()})
    shown += [_table(name, rows, side) for side in (0, 1)]
    known = np.isfinite(rows.predicted)
    stated, z = rows.stated[known], rows.z[known]
    summary.add_row(
      name,
      " ".join(f"{each:.0%}" for each in known.mean(axis=1)),
      *(f"{each:.2f}" for each in (np.median(stated), stated.max(), z.max())),
    )
  return [*shown, summary]


def _table(name: str, rows: Rows, side: int) -> Any:
  """Of one network and direction."""
  from rich.table import Table

  what = ("forward, log₂ E\\[z²]", "backward, log₂ E\\[δ²]")[side]
  table = Table(title=f"{name}, {what}", box=None)
  table.add_column("operation", no_wrap=True)
  for column in ("theory", "±", "measured", "± SE", "z"):
    table.add_column(column, justify="right")
  columns = [rows.predicted, rows.stated, rows.measured, rows.standard_error]
  for at, path in enumerate(rows.paths):
    known = not np.isnan(rows.predicted[side, at])
    cells = [f"{column[side, at]:.2f}" for column in columns]
    if not known:
      cells[:2] = "unknown", ""
    z = f"{rows.z[side, at]:.1f}" if known else ""
    short = path.removeprefix("params/").removesuffix("/kernel")
    table.add_row(short, *cells, z)
  return table


def _array(value: Any) -> Any:
  is_paths = len(value) and isinstance(value[0], str)
  return value if is_paths else np.array(value, float)


EXPERIMENT = Experiment(
  "theory_rows",
  Config,
  {"smoke": {"draws": 2, "depth": 1, "only": "Llama"}},
  run,
  tables,
)

if __name__ == "__main__":
  launch(EXPERIMENT)
