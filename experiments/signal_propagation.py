"""Does signal flow through 100 layers, forward and backward, at birth?

Question: for which pairs of activation and initializer do activations and
gradients keep their size through a deep network, and does theory say so?

    python -m experiments.signal_propagation

sends real images (8×8 digits) through 100-layer networks of width 128, for
every pair of 7 activations and 8 initializers and 16 seeds, and a random
gradient back; under 90 seconds on 2 CPU cores. Expect: Xavier on ReLU halves
the second moment in every layer (2^-99 at the end); He holds it in both
directions; normal(0.01) dies; sigmoid's gradient vanishes under all of them;
tanh at its own gain keeps its activations while its gradient grows 1.178 times
a layer (2^23); gelu at its own gain runs away, since its map is unstable. Next
to each growth stands what theory allows at this width. Of 105 growths 98 lie
in that band; gelu under He does not, where chance in the first layers decides
how soon the signal dies, and five others miss it by less than 0.002.

Networks that differ by the scale of their weights alone share one draw, so
that the comparison is not blurred by chance. Results go to a new directory:
signal_propagation.json and signal_propagation.png.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from experiments import _datasets, _results, _signal_theory, _signal_views
from experiments._signal_records import Record, record
from initjax import initializers, stacks
from initjax.typing import Activation, Initializer

ACTIVATIONS: dict[str, Activation] = {
  "sigmoid": jax.nn.sigmoid,
  "tanh": jnp.tanh,
  "softsign": jax.nn.soft_sign,
  "relu": jax.nn.relu,
  "leaky_relu": jax.nn.leaky_relu,
  "elu": jax.nn.elu,
  "gelu": jax.nn.gelu,
}


class Scheme(NamedTuple):
  """An initializer under test, and the distribution that it rescales."""

  base: str
  build: Callable[[Activation], Initializer]


SCHEMES: dict[str, Scheme] = {
  "normal 0.01": Scheme("normal", lambda _: initializers.normal(0.01)),
  "standard": Scheme("uniform", lambda _: initializers.torch_linear_kernel()),
  "Xavier norm.": Scheme("truncated", lambda _: initializers.xavier_normal()),
  "Xavier unif.": Scheme("uniform", lambda _: initializers.xavier_uniform()),
  "He fan_in": Scheme("truncated", lambda _: initializers.kaiming_normal()),
  "He fan_out": Scheme(
    "truncated", lambda _: initializers.kaiming_normal(mode="fan_out")
  ),
  "own gain": Scheme(
    "truncated", lambda phi: initializers.activation_scaling(phi)
  ),
  "orthogonal": Scheme("orthogonal", lambda _: initializers.orthogonal()),
}

BASES: dict[str, Initializer] = {  # what a Scheme rescales
  "normal": initializers.normal(1.0),
  "uniform": initializers.lecun_uniform(),
  "truncated": initializers.lecun_normal(),
  "orthogonal": initializers.orthogonal(),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """What to run; the defaults are the published table."""

  depth: int = 100
  width: int = 128
  seeds: int = 16
  batch: int = 64
  activations: tuple[str, ...] = tuple(ACTIVATIONS)
  schemes: tuple[str, ...] = tuple(SCHEMES)
  dataset: str = "digits"
  seed: int = 0

  def __post_init__(self) -> None:
    for name, low in (("depth", 2), ("width", 2), ("seeds", 2), ("batch", 1)):
      if getattr(self, name) < low:
        raise ValueError(
          f"{name} must be at least {low}; got {getattr(self, name)}."
        )
    for name, known in (("activations", ACTIVATIONS), ("schemes", SCHEMES)):
      unknown = [item for item in getattr(self, name) if item not in known]
      if unknown or not getattr(self, name):
        raise ValueError(
          f"{name} must be among {', '.join(known)}; got {unknown or 'none'}."
        )


def run(
  config: Config, advance: Callable[[str], None] = lambda done: None
) -> list[Record]:
  """Measures every pair; `advance` is told of each one as it is done."""
  inputs = _datasets.load_inputs(config.dataset, config.batch, config.seed)
  key = jax.random.key(config.seed)
  cotangent_key, draw_key = jax.random.split(key)
  shape = (config.batch, config.width)
  cotangent = jax.random.normal(cotangent_key, shape)
  conditions = conditions_of(config)
  healthy = _signal_theory.healthy(conditions)
  records = {}
  for base, params in _draws(config, draw_key, inputs.shape):
    sent = {}  # all at once: they run while theory is computed
    for scheme, activation in _pairs(config, base):
      factors = _factors(scheme, activation, inputs.shape[-1], config.width)
      signals = send(
        activation, config.width, params, factors, inputs, cotangent
      )
      sent[activation, scheme] = signals, factors[1]
    for (activation, scheme), (signals, factor) in sent.items():
      records[activation, scheme] = _compare(
        scheme, activation, factor, signals, healthy, conditions
      )
      advance(f"{activation}, {scheme}")
  return [
    records[activation, scheme]
    for activation in config.activations
    for scheme in config.schemes
  ]


def _compare(
  scheme: str,
  activation: str,
  factor: jax.Array,
  signals: tuple[jax.Array, jax.Array],
  healthy: tuple[_signal_theory.Law, _signal_theory.Law],
  conditions: _signal_theory.Conditions,
) -> Record:
  """Measured signals [seeds, depth] beside what theory says of the pair."""
  base = SCHEMES[scheme].base
  forward, backward = (np.asarray(part, np.float64) for part in signals)
  log2_sigma_w2 = _log2_sigma_w2(base, factor, conditions.width)
  laws = _signal_theory.laws(
    ACTIVATIONS[activation], log2_sigma_w2, forward[:, 0].mean(), conditions
  )
  return record(
    activation,
    scheme,
    log2_sigma_w2,
    (forward, backward),
    laws,
    healthy,
    conditions,
    drift_is_bound=base == "orthogonal",
  )


def conditions_of(config: Config) -> _signal_theory.Conditions:
  """What theory needs to know of a run, beside the pair."""
  inputs = _datasets.load_inputs(config.dataset, config.batch, config.seed)
  return _signal_theory.Conditions(
    config.depth,
    config.width,
    config.seeds,
    config.batch,
    _signal_theory.typical_correlation(inputs),
  )


@functools.partial(jax.jit, static_argnames=("activation", "width"))
def send(
  activation: str,
  width: int,
  params: stacks.StackParams,
  factors: tuple[jax.Array, jax.Array],
  inputs: jax.Array,
  cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """log₂ second moments [seeds, depth], forward and backward.

  Compiled once per activation: every scheme is the same program with other
  factors on the first kernel and on all others.
  """

  def one_seed(params: stacks.StackParams) -> stacks.Signals:
    scaled = params._replace(
      first_kernel=params.first_kernel * factors[0],
      kernels=params.kernels * factors[1],
    )
    depth = params.kernels.shape[0] + 1
    stack = _mlp(depth, width, ACTIVATIONS[activation], BASES["normal"])
    return stacks.propagate(stack, scaled, inputs, cotangent)

  signals = jax.vmap(one_seed)(params)
  return (
    signals.forward.log2_second_moment,
    signals.backward.log2_second_moment,
  )


def _mlp(
  depth: int, width: int, activation: Activation, kernel_init: Initializer
) -> stacks.Stack:
  return stacks.mlp(
    depth=depth, width=width, activation=activation, kernel_init=kernel_init
  )


def _draws(
  config: Config, key: jax.Array, input_shape: tuple[int, ...]
) -> Iterator[tuple[str, stacks.StackParams]]:
  """Each needed distribution with parameters [seeds, ...] drawn from it."""
  keys = jax.random.split(key, config.seeds)
  for base in dict.fromkeys(SCHEMES[name].base for name in config.schemes):
    stack = _mlp(config.depth, config.width, jnp.tanh, BASES[base])
    draw = functools.partial(stack.init, input_shape=input_shape)
    # One seed after the other: XLA on CPUs can hang on batched QR.
    yield base, jax.jit(functools.partial(jax.lax.map, draw))(keys)


def _pairs(config: Config, base: str) -> Iterator[tuple[str, str]]:
  for activation in config.activations:
    for scheme in config.schemes:
      if SCHEMES[scheme].base == base:
        yield scheme, activation


def _factors(
  scheme: str, activation: str, features: int, width: int
) -> tuple[jax.Array, jax.Array]:
  """By what the base must be multiplied to give the scheme, layer by layer.

  Taken from both initializers themselves: for one key their values are
  proportional, so the ratio of norms is the ratio of scales.
  """
  key = jax.random.key(0)
  base, build = BASES[SCHEMES[scheme].base], SCHEMES[scheme].build
  init = build(ACTIVATIONS[activation])

  def ratio(shape: tuple[int, int]) -> jax.Array:
    return jnp.linalg.norm(init(key, shape)) / jnp.linalg.norm(base(key, shape))

  return ratio((features, width)), ratio((width, width))


def _log2_sigma_w2(base: str, factor: jax.Array, width: int) -> float:
  """log₂ of σ_w² = width · Var W in the hidden layers."""
  unit = width if base == "normal" else 1.0  # the others have Var W = 1/width
  return float(2 * np.log2(float(factor)) + np.log2(unit))


_DEFAULT = Config()
_DEPTH = flags.DEFINE_integer("depth", _DEFAULT.depth, "Linear layers.")
_WIDTH = flags.DEFINE_integer("width", _DEFAULT.width, "Units of each.")
_SEEDS = flags.DEFINE_integer("seeds", _DEFAULT.seeds, "Networks per pair.")
_BATCH = flags.DEFINE_integer("batch", _DEFAULT.batch, "Inputs per network.")
_ACTIVATION = flags.DEFINE_list(
  "activation", list(ACTIVATIONS), "Some of: " + ", ".join(ACTIVATIONS)
)
_INITIALIZER = flags.DEFINE_list(
  "initializer", list(SCHEMES), "Some of: " + ", ".join(SCHEMES)
)
_DATASET = flags.DEFINE_enum(
  "dataset", _DEFAULT.dataset, _datasets.DATASETS, "What goes in."
)
_SEED = flags.DEFINE_integer("seed", _DEFAULT.seed, "Of all random numbers.")
_OUTPUT = flags.DEFINE_string(
  "output_dir", "results", "Where a new directory of results is made."
)


def config_from_flags() -> Config:
  """What the command line asks for.

  Raises:
    app.UsageError: if that makes no sense, or cannot be run or saved here;
      before the run, so that none is lost for want of a place or a package.
  """
  try:
    config = Config(
      depth=_DEPTH.value,
      width=_WIDTH.value,
      seeds=_SEEDS.value,
      batch=_BATCH.value,
      activations=tuple(_ACTIVATION.value),
      schemes=tuple(_INITIALIZER.value),
      dataset=_DATASET.value,
      seed=_SEED.value,
    )
    _results.check_parent(_OUTPUT.value)
    _signal_views.check_figures()
    _datasets.load_inputs(config.dataset, config.batch, config.seed)
  except (ValueError, OSError, ImportError) as error:
    raise app.UsageError(str(error)) from None
  return config


def save(records: list[Record], config: Config, parent: str) -> None:
  """Writes the numbers and the figure to a new directory in `parent`."""
  directory = _results.new_directory(parent, "signal_propagation")
  content: dict[str, Any] = {
    "config": dataclasses.asdict(config),
    "correlation": conditions_of(config).correlation,
    "band_in_standard_deviations": _signal_theory.SIGMAS,
    "jax": jax.__version__,
    "device": str(jax.devices()[0]),
    "records": records,
  }
  _results.write_json(directory / "signal_propagation.json", content)
  figure = directory / "signal_propagation.png"
  _results.write_whole(
    figure, lambda path: _signal_views.save_figure(records, path)
  )
  _signal_views.print_written(directory, "signal_propagation")


def main(argv: list[str]) -> None:
  """Reads flags, runs, prints the table, writes JSON and the figure."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)  # JAX tells of every absent TPU
  config = config_from_flags()
  pairs = len(config.activations) * len(config.schemes)
  with _signal_views.progress(pairs) as advance:
    records = run(config, advance)
  _signal_views.print_table(records, conditions_of(config))
  save(records, config, _OUTPUT.value)


if __name__ == "__main__":
  app.run(main)
