"""How often do the assertions of `initjax.testing` err?

Question: a test that runs on one draw of the weights fails by chance; how often
does it on healthy 100-layer networks, and how often does it notice weights that
are 5 % too large?

    python -m experiments.false_alarms

draws 500 networks of each kind at widths 128 and 512, with a batch of 16, and
calls `assert_variance_stable` and `assert_gradients_flow` on each: some 50
minutes on 2 CPU cores (`--alarms_draws=20` for a first look). Healthy are ReLU
and leaky ReLU at the He gain and tanh on the edge of chaos with biases of
variance 0.05, whose signal shall keep the second moment of its fixed point. The
intervals are exact (Clopper and Pearson 1934). Expect false alarms at or below
the nominal 0.3 % (1.5 of 500; at width 128 the signal of ReLU gave 2, of leaky
ReLU 1, of tanh 0, gradients none), and of the ReLU networks with standard
deviations 5 % too large 97 % caught at width 128 (gradients: 98.6 %), 99 % and
more at width 512.

A progress bar runs; results go to a new directory, as false_alarms.json.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import rich.console
import rich.progress
import rich.table
from absl import app, flags, logging

import initjax
from experiments import _results
from initjax.typing import Activation

_FEATURES = 64


class Net(NamedTuple):
  """A kind of network, all of whose layers are alike."""

  activation: Activation
  sigma_w2: float
  sigma_b2: float = 0.0
  target: float | None = None
  """the second moment it is to keep, where theory has one"""


class Count(NamedTuple):
  """One row of the table."""

  net: str
  width: int
  assertion: str
  failures: int
  draws: int
  low: float
  """exact 95 % interval of the probability to fail"""
  high: float


@dataclasses.dataclass(frozen=True)
class Config:
  """What to draw."""

  draws: int = 500
  depth: int = 100
  widths: tuple[int, ...] = (128, 512)
  batch: int = 16
  false_alarm: float = 0.003
  excess: float = 0.05

  def __post_init__(self) -> None:
    for name, low in (("draws", 1), ("depth", 5), ("batch", 1)):
      if getattr(self, name) < low:
        raise ValueError(f"{name} must be at least {low}.")
    if not self.widths or min(self.widths) < 2:
      raise ValueError(f"widths must be numbers of at least 2: {self.widths}.")
    if not 0 < self.false_alarm < 1 or not self.excess > -1:
      raise ValueError("false_alarm must be in (0, 1), excess above -1.")


def nets(excess: float) -> dict[str, Net]:
  """Three healthy networks, and each with weights too large."""
  leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)
  critical = initjax.meanfield.critical_point(jnp.tanh, 0.05)
  healthy = {
    "relu": Net(jax.nn.relu, 2.0),
    "leaky_relu": Net(leaky, 2 / (1 + 0.2**2)),
    "tanh": Net(jnp.tanh, critical.sigma_w2, critical.sigma_b2, critical.q),
  }
  sick = {
    f"{name}, std {excess:+.0%}": net._replace(
      sigma_w2=net.sigma_w2 * (1 + excess) ** 2
    )
    for name, net in healthy.items()
    if name != "leaky_relu"
  }
  return healthy | sick


Params = dict[str, jax.Array]


def model(activation: Activation) -> Callable[[Params, jax.Array], jax.Array]:
  """depth linear layers with φ between them; what it returns is linear."""

  def apply(params: Params, x: jax.Array) -> jax.Array:
    def layer(
      h: jax.Array, weights: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
      kernel, bias = weights
      return activation(h) @ kernel + bias, None

    layers = (params["kernels"], params["biases"])
    return jax.lax.scan(layer, x @ params["first"], layers)[0]

  return apply


def draw(net: Net, depth: int, width: int, key: jax.Array) -> Params:
  """Gaussian weights; the first layer keeps its input's second moment."""
  first, kernels, biases = jax.random.split(key, 3)
  size = math.sqrt((net.target or 1.0) / _FEATURES)
  square = (depth - 1, width, width)
  std = math.sqrt(net.sigma_w2 / width)
  return {
    "first": size * jax.random.normal(first, (_FEATURES, width)),
    "kernels": std * jax.random.normal(kernels, square),
    "biases": math.sqrt(net.sigma_b2)
    * jax.random.normal(biases, (depth - 1, width)),
  }


def count(
  config: Config, name: str, width: int, advance: Callable[[], None]
) -> list[Count]:
  """Failures of both assertions on one kind of network."""
  net = nets(config.excess)[name]
  apply = model(net.activation)
  sample = jax.jit(functools.partial(draw, net, config.depth, width))
  x = jax.random.normal(jax.random.key(1), (config.batch, _FEATURES))
  given: dict[str, dict[str, Any]] = {
    "assert_variance_stable": {"target": net.target},
    "assert_gradients_flow": {},
  }
  failures = dict.fromkeys(given, 0)
  for key in jax.random.split(jax.random.key(0), config.draws):
    params = sample(key)
    for assertion, options in given.items():
      check = getattr(initjax.testing, assertion)
      options = {**options, "false_alarm": config.false_alarm, "key": key}
      try:
        check(apply, params, x, **options)
      except AssertionError:
        failures[assertion] += 1
    advance()
  return [
    Count(name, width, assertion, k, config.draws, *_interval(k, config.draws))
    for assertion, k in failures.items()
  ]


def _interval(failures: int, draws: int) -> tuple[float, float]:
  from scipy import stats

  interval = stats.binomtest(failures, draws).proportion_ci(0.95, "exact")
  return float(interval.low), float(interval.high)


def run(
  config: Config, advance: Callable[[], None] = lambda: None
) -> list[Count]:
  """All networks at all widths; `advance` is called after every draw."""
  return [
    row
    for width in config.widths
    for name in nets(config.excess)
    for row in count(config, name, width, advance)
  ]


def print_table(counts: list[Count], config: Config) -> None:
  """One row for each network, width and assertion."""
  table = rich.table.Table(
    title=f"{config.draws} draws, {config.depth} layers, nominal "
    f"{config.false_alarm:.1%}",
    box=None,
  )
  table.add_column("network", no_wrap=True)
  table.add_column("width", justify="right")
  table.add_column("assertion", no_wrap=True)
  table.add_column("fails", justify="right")
  table.add_column("95 % interval", justify="right", no_wrap=True)
  for row in counts:
    table.add_row(
      row.net,
      str(row.width),
      row.assertion.removeprefix("assert_"),
      f"{row.failures / row.draws:.1%}",
      f"{row.low:.2%} … {row.high:.2%}",
    )
  rich.console.Console().print(table)


_DEFAULT = Config()
_DRAWS = flags.DEFINE_integer(
  "alarms_draws", _DEFAULT.draws, "Networks of each kind."
)
_DEPTH = flags.DEFINE_integer("alarms_depth", _DEFAULT.depth, "Linear layers.")
_WIDTHS = flags.DEFINE_list(
  "alarms_widths", list(map(str, _DEFAULT.widths)), "Units of each."
)
_OUTPUT = flags.DEFINE_string(
  "alarms_output_dir", "results", "Where a new directory of results is made."
)


def main(argv: list[str]) -> None:
  """Reads flags, draws, prints the table, writes JSON."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)
  try:
    widths = tuple(int(width) for width in _WIDTHS.value)
    config = Config(_DRAWS.value, _DEPTH.value, widths)
    _results.check_parent(_OUTPUT.value)
  except (ValueError, OSError) as error:
    raise app.UsageError(str(error)) from None
  total = config.draws * len(nets(config.excess)) * len(config.widths)
  with rich.progress.Progress(
    *rich.progress.Progress.get_default_columns(),
    rich.progress.MofNCompleteColumn(),
    transient=True,
  ) as bar:
    task = bar.add_task("networks", total=total)
    counts = run(config, functools.partial(bar.advance, task))
  print_table(counts, config)
  directory = _results.new_directory(_OUTPUT.value, "false_alarms")
  content = {
    "config": dataclasses.asdict(config),
    "counts": [row._asdict() for row in counts],
  }
  _results.write_json(directory / "false_alarms.json", content)
  print(f"wrote false_alarms.json to {directory}")


if __name__ == "__main__":
  app.run(main)
