"""How often are the assertions of `initjax.testing` wrong?

Question: a verdict on one draw of the weights may be due to chance. How often
is a healthy network called sick, and a sick one healthy?

    python -m experiments.costs.false_alarms

draws 400 networks of each of 14 healthy kinds and 100 of each of 16 sick ones,
and diagnoses each. It takes some 20 minutes on 2 idle CPU cores
(`--verdict_draws=20` gives a first impression). A verdict other than a note is
an alarm. Expect at most 6 of 400 in any healthy kind, and at least 99 % of each
sickness found. Of 60 draws of each healthy kind, 2 of 840 gave an alarm (width
16 and depth 200); of 15 of each sickness, all were found.

    python -m experiments.costs.false_alarms --draws=500 --verdict_draws=0

tests the assertions in the same way: 500 networks of each kind at widths 128
and 512, with a batch of 16, each for `assert_variance_stable` and
`assert_gradients_flow`. It takes some 50 minutes. The healthy kinds are ReLU
and leaky ReLU at the He gain, and tanh on the edge of chaos with biases of
variance 0.05, whose signal should keep the second moment of its fixed point.
The intervals are exact (Clopper and Pearson 1934). Expect false alarms at or
below the nominal 0.3 %. Of the ReLU networks with standard deviations 5 % too
large, expect more than 90 % to be caught at width 128, and all at width 512.

Results go to a new directory, as false_alarms.json.
"""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.table

import initjax
from experiments.costs.healthy_networks import healthy_networks
from experiments.costs.sick_networks import sick_networks
from experiments.runtime.experiment import Experiment, Result, Settings, option
from experiments.runtime.job import Job
from experiments.runtime.launch import launch
from initjax.diagnosis import verdicts_of_draws
from initjax.typing import Activation, Verdict

_FEATURES = 64
_PART = 25  # draws
ASSERTIONS = ("assert_variance_stable", "assert_gradients_flow")


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
class Config(Settings):
  """What to draw."""

  draws: int = option(0, "Networks of each kind for the assertions.", low=0)
  depth: int = option(100, "Linear layers.", low=5)
  widths: tuple[int, ...] = option((128, 512), "Units of each.", low=2)
  batch: int = option(16, "Inputs.", low=1)
  false_alarm: float = option(0.003, "Nominal rate.", low=0.0)
  excess: float = option(0.05, "Of the standard deviation, of sick networks.")
  verdict_draws: int = option(
    400, "Healthy networks of each kind to diagnose; of sick a quarter.", low=0
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if not 0 < self.false_alarm < 1 or not self.excess > -1:
      raise ValueError("false_alarm must be in (0, 1), excess above -1.")


def nets(excess: float) -> dict[str, Net]:
  """Three healthy networks; two of them with weights off by `excess`."""
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


def failures(config: Config, name: str, width: int, keys: Any) -> np.ndarray:
  """How often each of `ASSERTIONS` fails on a kind of network: [2]."""
  net = nets(config.excess)[name]
  apply = model(net.activation)
  sample = jax.jit(functools.partial(draw, net, config.depth, width))
  x = jax.random.normal(jax.random.key(1), (config.batch, _FEATURES))
  failed = np.zeros(len(ASSERTIONS), int)
  for key in keys:
    params = sample(key)
    for place, assertion in enumerate(ASSERTIONS):
      options: dict[str, Any] = {"false_alarm": config.false_alarm, "key": key}
      if assertion == "assert_variance_stable":
        options["target"] = net.target
      try:
        getattr(initjax.testing, assertion)(apply, params, x, **options)
      except AssertionError:
        failed[place] += 1
  return failed


def _interval(failures: int, draws: int) -> tuple[float, float]:
  from scipy import stats

  interval = stats.binomtest(failures, draws).proportion_ci(0.95, "exact")
  return float(interval.low), float(interval.high)


class Rate(NamedTuple):
  """How often one kind of network is called sick."""

  network: str
  is_sick: bool
  found: int
  draws: int
  unjudged: int
  """rows of it whose growth is not judged, of `rows`"""
  rows: int
  kinds: str
  """of verdicts, and how often"""


def rates(config: Config, job: Job) -> list[Rate]:
  """Diagnoses every kind; each is one item."""
  networks = [*healthy_networks().items(), *sick_networks().items()]
  sick = sick_networks()

  def one(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers, and the verdicts' text as bytes: what is kept is arrays."""
    network, kinds = dict(networks)[name], collections.Counter[str]()
    count = config.verdict_draws // 4 if name in sick else config.verdict_draws
    keys = jax.random.split(jax.random.key(0), max(count, 1))
    found, fn, init = 0, network.apply, network.init
    signs = network.signs if name in sick else ("",)
    for verdicts in verdicts_of_draws(fn, init, keys, *network.inputs):
      loud = {v.kind for v in verdicts if is_alarm(v)}
      found += any(sign in kind for sign in signs for kind in loud)
      kinds.update(loud)
    report = initjax.diagnose(fn, init(keys[0]), *network.inputs)
    rows = len(report.graph.rows)
    numbers = np.array([found, len(keys), len(report.unjudged), rows])
    return numbers, np.frombuffer(_listed(kinds).encode(), np.uint8)

  rates = []
  found = job.map(one, [name for name, _ in networks])
  for (name, _), (numbers, text) in zip(networks, found, strict=True):
    said = bytes(text).decode()
    k, draws, unjudged, rows = (int(number) for number in numbers)
    rates.append(Rate(name, name in sick, k, draws, unjudged, rows, said))
  return rates


def is_alarm(verdict: Verdict) -> bool:
  """Whether it says that something is wrong."""
  return verdict.severity != "note"


def _listed(kinds: collections.Counter[str]) -> str:
  return ", ".join(f"{kind} {n}" for kind, n in kinds.items()) or "none"


def counts_of(config: Config, job: Job) -> list[Count]:
  """All networks at all widths; every `_PART` draws are kept when done."""
  keys = jax.random.split(jax.random.key(0), config.draws)
  starts = range(0, config.draws, _PART)
  kinds = list(itertools.product(config.widths, nets(config.excess)))
  items = [(width, name, at) for width, name in kinds for at in starts]

  def part(item: tuple[int, str, int]) -> np.ndarray:
    width, name, start = item
    return failures(config, name, width, keys[start : start + _PART])

  found = np.array(job.map(part, items))
  found = found.reshape(len(kinds), len(starts), len(ASSERTIONS)).sum(1)
  return [
    Count(name, width, assertion, k, config.draws, *_interval(k, config.draws))
    for (width, name), row in zip(kinds, found.tolist(), strict=True)
    for assertion, k in zip(ASSERTIONS, row, strict=True)
  ]


def run(config: Config, job: Job) -> Result:
  """Verdicts, assertions, or both."""
  title = (
    f"{config.draws} draws, {config.depth} layers, nominal "
    f"{config.false_alarm:.1%}"
  )
  return {
    "title": title,
    "counts": counts_of(config, job) if config.draws else [],
    "rates": rates(config, job) if config.verdict_draws else [],
  }


def tables(result: Result) -> list[rich.table.Table]:
  """Those of verdicts and of assertions, as far as they were asked for."""
  found = []
  if result["rates"]:
    found.append(_rates_table(result["rates"]))
  if result["counts"]:
    found.append(_counts_table(result))
  return found


def _rates_table(found: list[Rate]) -> rich.table.Table:
  alarms = sum(rate.found for rate in found if not rate.is_sick)
  table = rich.table.Table(title=f"{alarms} alarms in health", box=None)
  for name in ("network", "state", "called sick", "not judged", "verdicts"):
    table.add_column(name, no_wrap=name != "verdicts")
  for rate in found:
    table.add_row(
      rate.network,
      "sick" if rate.is_sick else "healthy",
      f"{rate.found} of {rate.draws}",
      f"{rate.unjudged} of {rate.rows} rows",
      rate.kinds,
    )
  return table


def _counts_table(result: Result) -> rich.table.Table:
  """One row for each network, width and assertion."""
  table = rich.table.Table(title=result["title"], box=None)
  table.add_column("network", no_wrap=True)
  table.add_column("width", justify="right")
  table.add_column("assertion", no_wrap=True)
  table.add_column("fails", justify="right")
  table.add_column("95 % interval", justify="right", no_wrap=True)
  for row in result["counts"]:
    table.add_row(
      row.net,
      str(row.width),
      row.assertion.removeprefix("assert_"),
      f"{row.failures / row.draws:.1%}",
      f"{row.low:.2%} … {row.high:.2%}",
    )
  return table


EXPERIMENT = Experiment(
  "false_alarms",
  Config,
  {
    "smoke": {
      "draws": 2,
      "depth": 6,
      "widths": (16,),
      "batch": 4,
      "verdict_draws": 0,
    }
  },
  run,
  tables,
)

if __name__ == "__main__":
  launch(EXPERIMENT)
