"""Do finite networks forget their inputs as fast as mean-field theory says?

Question: where in the plane of weight and bias variance do two inputs become
alike (ordered), where do they part (chaotic), over how many layers ξ_c, and do
networks of width 256 keep to it?

    python -m experiments.phase_diagram

maps the phases, ξ_c and the critical line of tanh from theory, and measures ξ_c
at 35 points on 32 networks of 60 layers each, fed with real images: one or two
minutes on 2 CPU cores. Expect 30 points with a measured ξ_c: 19 of them within
one standard error of theory, 25 within two, all but one within three; half
within 1.4 % of its value, the largest ξ_c, beside the critical line, within 16.
On the line itself ξ_c exceeds a third of the depth, and none is fitted.
`--phase_activation` chooses another function: ReLU has no chaotic phase with a
fixed point, GELU a critical line that is partly unstable.

The networks are spread over all devices. They start at the fixed point's length
q*, so that transients of the length do not blur the correlation; their pairs of
images are the most and the least alike, so that c* is met from both sides. How
ξ_c is fitted is told in `_phase_fit.py`. Results go to a new directory:
phase_diagram.json and phase_diagram.png.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from experiments import (
  _datasets,
  _phase_figure,
  _phase_fit,
  _phase_networks,
  _phase_table,
  _phase_theory,
  _results,
  _signal_views,
)
from experiments._phase_records import Point, Result, as_numbers
from initjax import meanfield
from initjax.typing import Activation

_POOL = 512  # images among which pairs are sought


class Subject(NamedTuple):
  """An activation, and the part of the plane that shows its phases."""

  activation: Activation
  sigma_w2: tuple[float, float]
  sigma_b2: tuple[float, float]


ACTIVATIONS: dict[str, Subject] = {
  "tanh": Subject(jnp.tanh, (0.5, 4.0), (0.0, 0.5)),
  "erf": Subject(jax.scipy.special.erf, (0.4, 3.2), (0.0, 0.5)),
  "softsign": Subject(jax.nn.soft_sign, (0.5, 6.0), (0.0, 0.5)),
  "sigmoid": Subject(jax.nn.sigmoid, (50.0, 200.0), (0.0, 5.0)),
  "relu": Subject(jax.nn.relu, (0.5, 3.0), (0.0, 1.0)),
  "leaky_relu": Subject(jax.nn.leaky_relu, (0.5, 3.0), (0.0, 1.0)),
  "elu": Subject(jax.nn.elu, (0.5, 2.5), (0.0, 1.0)),
  "selu": Subject(jax.nn.selu, (0.3, 1.5), (0.0, 1.0)),
  "gelu": Subject(jax.nn.gelu, (0.5, 3.0), (0.0, 1.0)),
  "silu": Subject(jax.nn.silu, (0.5, 3.0), (0.0, 1.0)),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """What to map and measure; ranges are those of the activation if None."""

  activation: str = "tanh"
  sigma_w2: tuple[float, ...] | None = None
  sigma_b2: tuple[float, ...] | None = None
  resolution: int = 96
  points: tuple[int, ...] = (7, 5)
  depth: int = 60
  width: int = 256
  seeds: int = 32
  pairs: int = 32
  dataset: str = "digits"
  seed: int = 0

  def __post_init__(self) -> None:
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f"activation must be among {', '.join(ACTIVATIONS)}; got "
        f"{self.activation!r}."
      )
    smallest = {"resolution": 2, "depth": 10, "width": 8, "seeds": 2}
    for name, low in (smallest | {"pairs": 1}).items():
      if getattr(self, name) < low:
        raise ValueError(
          f"{name} must be at least {low}; got {getattr(self, name)}."
        )
    if self.pairs > _POOL // 4:
      raise ValueError(f"pairs must be at most {_POOL // 4}; got {self.pairs}.")
    if len(self.points) != 2 or min(self.points) < 1:
      raise ValueError(
        "points must be two numbers of at least 1, along sigma_w2 and "
        f"sigma_b2; got {self.points}."
      )
    for name, bounds in zip(("sigma_w2", "sigma_b2"), self.ranges, strict=True):
      _check_range(name, bounds, positive=name == "sigma_w2")

  @property
  def ranges(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(low, high) of σ_w² and of σ_b²."""
    subject = ACTIVATIONS[self.activation]
    return (
      subject.sigma_w2 if self.sigma_w2 is None else self.sigma_w2,
      subject.sigma_b2 if self.sigma_b2 is None else self.sigma_b2,
    )


def _check_range(name: str, bounds: tuple[float, ...], positive: bool) -> None:
  fine = len(bounds) == 2 and 0 <= bounds[0] < bounds[1] < math.inf
  if not fine or (positive and bounds[0] == 0):
    raise ValueError(
      f"{name} must be two finite numbers, {'0 <' if positive else '0 <='} low "
      f"< high; got {bounds}."
    )


def run(
  config: Config,
  advance: Callable[[str], None] = lambda done: None,
  devices: list[jax.Device] | None = None,
) -> Result:
  """Theory on the whole plane, and measurements at the centres of a grid."""
  phi = ACTIVATIONS[config.activation].activation
  sigma_w2, sigma_b2 = (
    np.linspace(low, high, config.resolution) for low, high in config.ranges
  )
  plane = _phase_theory.plane(phi, sigma_w2, sigma_b2)
  line = _phase_theory.critical_line(phi)
  advance("theory of the plane")
  points = theory(config)
  advance("theory of the points")
  measured = [i for i, point in enumerate(points) if not point.note]
  if measured:
    distances = measure([points[i] for i in measured], config, advance, devices)
    for i, one in zip(measured, distances, strict=True):
      found = _phase_fit.fit(one, points[i].c, config.width)
      points[i] = points[i]._replace(
        measured_xi_c=found.xi_c,
        error=found.error,
        note=found.note,
        deviation=(1 - points[i].c) - one.mean(axis=0, dtype=np.float64),
      )
  return Result(plane, line, points)


def theory(config: Config) -> list[Point]:
  """`fixed_point` at each point that is to be measured."""
  phi = ACTIVATIONS[config.activation].activation
  sigma_w2, sigma_b2 = (
    low + (high - low) * (np.arange(number) + 0.5) / number
    for (low, high), number in zip(config.ranges, config.points, strict=True)
  )
  points = []
  for w in sigma_w2.tolist():
    for b in sigma_b2.tolist():
      try:
        found = meanfield.fixed_point(phi, w, b)
      except ValueError as error:
        if "no fixed point" not in str(error):
          raise
        points.append(Point(w, b, "none", note="no fixed point"))
        continue
      note = "" if found.stable else "length unstable"
      if found.q == 0:
        note = "signal dies"
      points.append(
        Point(w, b, found.phase, found.q, found.c, found.xi_c, note=note)
      )
  return points


def measure(
  points: list[Point],
  config: Config,
  advance: Callable[[str], None] = lambda done: None,
  devices: list[jax.Device] | None = None,
) -> np.ndarray:
  """1 - c_l in all networks: [points, seeds, depth, groups]."""
  inputs = _datasets.load_inputs(config.dataset, _POOL, config.seed)
  keys = jax.random.split(
    jax.random.key(config.seed), len(points) * config.seeds
  )
  columns = np.array(
    [(point.sigma_w2, point.sigma_b2, point.q) for point in points], np.float32
  )
  nets = _phase_networks.Nets(
    keys, *jnp.repeat(columns.T, config.seeds, axis=1)
  )
  send = functools.partial(
    _phase_networks.distances,
    ACTIVATIONS[config.activation].activation,
    config.depth,
    config.width,
    pairs=jnp.asarray(_phase_networks.pairs_of(inputs, config.pairs)),
  )
  distances = _phase_networks.on_devices(
    send, nets, devices or jax.devices(), advance
  )
  return distances.reshape(len(points), config.seeds, *distances.shape[1:])


_DEFAULT = Config()
_ACTIVATION = flags.DEFINE_enum(
  "phase_activation", _DEFAULT.activation, list(ACTIVATIONS), "φ."
)
_SIGMA_W2, _SIGMA_B2 = (
  flags.DEFINE_list(
    f"phase_{name}", None, f"LOW,HIGH of {name}; by default, as suits φ."
  )
  for name in ("sigma_w2", "sigma_b2")
)
_POINTS = flags.DEFINE_list(
  "phase_points", list(map(str, _DEFAULT.points)), "Measured, along each axis."
)
_NUMBERS = {
  name: flags.DEFINE_integer(f"phase_{name}", getattr(_DEFAULT, name), text)
  for name, text in {
    "resolution": "Of the map, along each axis.",
    "depth": "Linear layers.",
    "width": "Units of each.",
    "seeds": "Networks at each point.",
    "pairs": "Pairs of images, both of the most and the least alike.",
    "seed": "Of all random numbers.",
  }.items()
}
_DATASET = flags.DEFINE_enum(
  "phase_dataset", _DEFAULT.dataset, _datasets.DATASETS, "What goes in."
)
_OUTPUT = flags.DEFINE_string(
  "phase_output_dir", "results", "Where a new directory of results is made."
)


def _range(texts: list[str] | None) -> tuple[float, ...] | None:
  return None if texts is None else tuple(map(float, texts))


def config_from_flags() -> Config:
  """What the command line asks for.

  Raises:
    app.UsageError: if that makes no sense, or cannot be run or saved here.
  """
  try:
    config = Config(
      activation=_ACTIVATION.value,
      points=tuple(map(int, _POINTS.value)),
      dataset=_DATASET.value,
      sigma_w2=_range(_SIGMA_W2.value),
      sigma_b2=_range(_SIGMA_B2.value),
      **{name: flag.value for name, flag in _NUMBERS.items()},
    )
    _results.check_parent(_OUTPUT.value)
    _signal_views.check_figures()
    _datasets.load_inputs(config.dataset, _POOL, config.seed)
  except (ValueError, OSError, ImportError) as error:
    raise app.UsageError(str(error)) from None
  return config


def save(result: Result, config: Config, parent: str) -> None:
  """Writes the numbers and the figure to a new directory in `parent`."""
  directory = _results.new_directory(parent, "phase_diagram")
  content = {
    "config": dataclasses.asdict(config),
    "jax": jax.__version__,
    "devices": list(map(str, jax.devices())),
    **as_numbers(result, _phase_networks.GROUPS),
  }
  _results.write_json(directory / "phase_diagram.json", content)
  _results.write_whole(
    directory / "phase_diagram.png",
    lambda path: _phase_figure.save_figure(result, config.activation, path),
  )
  _phase_table.print_written(directory)


def main(argv: list[str]) -> None:
  """Reads flags, runs, prints the table, writes JSON and the figure."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)
  config = config_from_flags()
  with _signal_views.progress(2 + _phase_networks.STEPS) as advance:
    result = run(config, advance)
  _phase_table.print_table(
    result, config.activation, config.depth, config.width
  )
  save(result, config, _OUTPUT.value)


if __name__ == "__main__":
  app.run(main)
