"""Do finite networks forget their inputs as fast as mean-field theory says?

Question: where in the plane of weight and bias variance do two inputs become
alike (ordered), where do they diverge (chaotic), over how many layers ξ_c, and
do networks of widths 128 and 256 agree with theory?

    python -m experiments.phase_diagram

maps the phases of tanh from theory and measures ξ_c at 35 points, in a minute
on 2 CPU cores. Expect half of the measured ξ_c within 1.0 % of theory. In the
chaotic phase, width n shifts log f'(c*) = -1/ξ_c by b/n; without this shift, 26
of 30 points lie within two standard errors (Student's law: 25 to 30).

Networks start at the fixed point's length q*, so that its transients do not
blur the correlation. Pairs of images are the most and the least alike, so that
c* is approached from both sides. `fit.py` explains how ξ_c is fitted.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import datasets
from experiments.phase_diagram import (
  finite_width,
  fit,
  networks,
  show,
  table,
  theory,
)
from experiments.phase_diagram.records import Diagram, Point, as_numbers
from experiments.runtime.experiment import (
  Claim,
  Experiment,
  Result,
  Settings,
  option,
)
from experiments.runtime.job import Job
from experiments.runtime.launch import launch
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
class Config(Settings):
  """What to map and measure."""

  activation: str = option("tanh", "φ.", choices=ACTIVATIONS)
  sigma_w2: tuple[float, ...] = option(
    (), "LOW,HIGH of σ_w²; if not given, as suits φ.", kind=float, repeats=True
  )
  sigma_b2: tuple[float, ...] = option(
    (), "LOW,HIGH of σ_b²; if not given, as suits φ.", kind=float, repeats=True
  )
  resolution: int = option(96, "Of the map, along each axis.", low=2)
  points: tuple[int, ...] = option(
    (7, 5), "Measured, on each axis.", low=1, repeats=True
  )
  depth: int = option(60, "Linear layers.", low=10)
  widths: tuple[int, ...] = option(
    (128, 256), "Units of each; the last is shown.", low=8
  )
  seeds: int = option(32, "Networks at each point.", low=2)
  pairs: int = option(
    32, "Pairs of images, both of the most and the least alike.", low=1
  )
  dataset: str = option("digits", "What goes in.", choices=datasets.INPUTS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.pairs > _POOL // 4:
      raise ValueError(f"pairs must be at most {_POOL // 4}; got {self.pairs}.")
    if len(self.points) != 2:
      raise ValueError(
        "points must be two numbers, along sigma_w2 and sigma_b2; got "
        f"{self.points}."
      )
    for name, bounds in zip(("sigma_w2", "sigma_b2"), self.ranges, strict=True):
      _check_range(name, bounds, positive=name == "sigma_w2")

  @property
  def batch(self) -> int:
    """Different images that are wanted."""
    return _POOL

  @property
  def ranges(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(low, high) of σ_w² and of σ_b²."""
    subject = ACTIVATIONS[self.activation]
    return (
      self.sigma_w2 or subject.sigma_w2,
      self.sigma_b2 or subject.sigma_b2,
    )


def _check_range(name: str, bounds: tuple[float, ...], positive: bool) -> None:
  fine = len(bounds) == 2 and 0 <= bounds[0] < bounds[1] < math.inf
  if not fine or (positive and bounds[0] == 0):
    raise ValueError(
      f"{name} must be two finite numbers, {'0 <' if positive else '0 <='} low "
      f"< high; got {bounds}."
    )


def run(config: Config, job: Job) -> Result:
  """Theory on the whole plane, and measurements at the centres of a grid."""
  phi = ACTIVATIONS[config.activation].activation
  sigma_w2, sigma_b2 = (
    np.linspace(low, high, config.resolution) for low, high in config.ranges
  )
  plane = theory.plane(phi, sigma_w2, sigma_b2)
  line = theory.critical_line(phi)
  points = predicted(config)
  measured = [i for i, point in enumerate(points) if not point.note]
  if measured:
    distances = measure([points[i] for i in measured], config, job)
    for place, i in enumerate(measured):
      points[i] = _fitted(points[i], config, distances[:, place])
  diagram = Diagram(plane, line, points, config.widths, config.seeds)
  setting = {"activation": config.activation, "depth": config.depth}
  numbers = as_numbers(diagram, networks.GROUPS)
  return {**setting, **numbers, "seeds": config.seeds, "_diagram": diagram}


def _fitted(point: Point, config: Config, distances: np.ndarray) -> Point:
  """With ξ_c from 1 - c_l [widths, seeds, depth, groups]."""
  fits = tuple(
    fit.fit(one, point.c, width)
    for one, width in zip(distances, config.widths, strict=True)
  )
  return point._replace(
    measured_xi_c=fits[-1].xi_c,
    error=fits[-1].error,
    note=fits[-1].note,
    by_width=fits,
    deviation=(1 - point.c) - distances[-1].mean(axis=0, dtype=np.float64),
  )


def predicted(config: Config) -> list[Point]:
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


def measure(points: list[Point], config: Config, job: Job) -> np.ndarray:
  """1 - c_l in all networks: [widths, points, seeds, depth, groups]."""
  inputs = datasets.load_inputs(config.dataset, _POOL, config.seed)
  pairs = jnp.asarray(networks.pairs_of(inputs, config.pairs))
  columns = np.array(
    [(point.sigma_w2, point.sigma_b2, point.q) for point in points], np.float32
  )
  shape = (len(config.widths), len(points), config.seeds)
  keys = jax.random.split(jax.random.key(config.seed), shape)
  phi = ACTIVATIONS[config.activation].activation

  def at(place: tuple[int, int]) -> jax.Array:
    width = config.widths[place[0]]
    send = functools.partial(networks.distances, phi, config.depth, width)
    row = jnp.repeat(columns[place[1]][:, None], config.seeds, axis=1)
    found: jax.Array = job.spread(send, networks.Nets(keys[place], *row), pairs)
    return found

  found = np.stack(job.map(at, list(np.ndindex(shape[:2]))))
  return found.reshape(*shape, *found.shape[2:])


def claims(result: Result) -> list[Claim]:
  """How often the measured depth scale is what the correlation map says."""
  return finite_width.claims(result["_diagram"])


EXPERIMENT = Experiment(
  "phase_diagram",
  Config,
  {
    "smoke": {"resolution": 8, "points": (2, 1), "depth": 20, "seeds": 4,
              "widths": (16, 32), "pairs": 4},
    "tpu": {"points": (14, 10), "widths": (1024, 2048), "seeds": 128},
  },
  run,
  table.tables,
  show.figure,
  claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
