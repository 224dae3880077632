"""What Xavier's measurements say of published numbers, and as tables."""

from typing import Any

import numpy as np

from experiments.common.fan_networks import ends
from experiments.common.plots import mean_and_error
from experiments.runtime.experiment import Claim, Result

EQ_10 = "Glorot and Bengio 2010, Eq. 10"
EQ_12 = "Glorot and Bengio 2010, Eq. 12"
EQ_14 = "Glorot and Bengio 2010, Eq. 14"


def spread(found: dict[str, Any]) -> tuple[float, float]:
  """Deviation over pyramids of one input's log q at the end; its error.

  Inputs count as one: those of a network fluctuate together.
  """
  deviation = np.log(found["last"]).std(0, ddof=1).mean()
  return float(deviation), float(deviation / np.sqrt(2 * len(found["last"])))


def spread_law(widths: Any) -> float:
  """Of Gaussian linear layers, exactly: |x_l|²/|x_{l-1}|² is a χ²_n each."""
  from scipy import special

  n = np.array(widths[1:], np.float64)
  first = special.polygamma(1, widths[0] / 2)
  return float(np.sqrt(first + special.polygamma(1, n / 2).sum()))


def last_step(found: dict[str, Any], name: str) -> tuple[float, float]:
  """How much the last layer changes a log₂ second moment, and its error."""
  mean, error = mean_and_error(found[name][:, -1] - found[name][:, -2])
  return float(mean), float(error)


def claims(result: Result) -> list[Claim]:
  """Formulas of Glorot and Bengio, and what theory says of the sigmoid."""
  return [
    *_pyramid_claims(result),
    *_distribution_claims(result),
    *_standard_claims(result),
    *_sigmoid_claims(result),
  ]


def _pyramid_claims(result: Result) -> list[Claim]:
  found = []
  for shape, modes in result["pyramids"].items():
    for mode, source in (("fan_in", EQ_10), ("fan_avg", EQ_12)):
      for direction, (value, error) in ends(modes[mode]["normal"]).items():
        law = result["theory"]["pyramids"][shape][mode][direction]
        published = float(np.log2(law[-1 if direction == "forward" else 0]))
        name = f"{shape}, {mode}: log₂ {direction} second moment at its end"
        found.append(Claim(source, name, published, value, 2 * error))
  return found


def _distribution_claims(result: Result) -> list[Claim]:
  """Uniform or normal: the same second moments, and nearly the same spread.

  Var z² differs by the kurtosis: a factor 1 - 1.8/n_in, less than that here.
  """
  found = []
  for shape, modes in result["pyramids"].items():
    pair = modes["fan_avg"]
    (a, da), (b, db) = (ends(pair[d])["forward"] for d in ("normal", "uniform"))
    name = f"{shape}: log₂ signal, uniform less normal weights"
    error = 2 * float(np.hypot(da, db))
    found.append(Claim("variance alone counts", name, 0.0, b - a, error))
    law = spread_law(result["widths"][shape])
    value, error = spread(pair["normal"])
    name = f"{shape}: deviation of one input's log q over nets"
    found.append(Claim("Hanin and Nica 2020", name, law, value, 2 * error))
  return found


def _standard_claims(result: Result) -> list[Claim]:
  """A standard layer keeps a third; its kernels' gradients are all alike.

  tanh bends: E[tanh²] = q - 2q² + ..., E[tanh'²] = 1 - 2q + ..., so a third is
  off by up to 2q, and gradients of successive kernels by up to 4q.
  """
  found = result["squashed"]["tanh"]["standard"]
  q = float(result["theory"]["squashed"]["tanh"]["standard"]["q"][-3])
  signal, signal_error = mean_and_error(found["q"][:, -1] / found["q"][:, -2])
  step, step_error = last_step(found, "log2_gradient")
  kernel, kernel_error = last_step(found, "log2_kernel_gradient")
  bend = float(2 * q / np.log(2))
  return [
    Claim(
      "Glorot and Bengio 2010, Eqs. 1, 5", "tanh, standard: signal kept by a "
      "layer", 1 / 3, float(signal), 2 * float(signal_error) + 2 * q / 3,
    ),
    Claim(
      "Glorot and Bengio 2010, Eqs. 1, 6", "tanh, standard: gradient kept by a "
      "layer", 1 / 3, 2**-step,
      2**-step * float(np.log(2)) * (2 * step_error + bend),
    ),
    Claim(
      EQ_14, "tanh, standard: log₂ kernel gradient, one layer over the next",
      0.0, kernel, 2 * kernel_error + 2 * bend,
    ),
  ]  # fmt: skip


def _sigmoid_claims(result: Result) -> list[Claim]:
  """Theory of infinite width: its drift at ours adds to two standard errors."""
  found = []
  for name in ("sigmoid", "tanh", "4·(sigmoid - ½)"):
    measured = result["squashed"][name]["normalized"]["log2_gradient"][:, 0]
    law = result["theory"]["squashed"][name]["normalized"]
    mean, deviation = mean_and_error(measured)
    error = 2 * float(deviation) + abs(float(law["log2_gradient_drift"][0]))
    quantity = f"{name}, normalized: log₂ gradient, first layer over last"
    published = float(law["log2_gradient"][0])
    source = "Schoenholz et al. 2017, Eq. 15"
    found.append(Claim(source, quantity, published, float(mean), error))
  return found


def tables(result: Result) -> list[Any]:
  """Where pyramids end; and what squashing does."""
  return [_pyramid_table(result), _squash_table(result)]


def _pyramid_table(result: Result) -> Any:
  import rich.table

  table = rich.table.Table(title="pyramids: log₂ second moments (theory)")
  table.add_column("weights")
  for shape in result["pyramids"]:
    table.add_column(f"{shape}: signal", justify="right")
    table.add_column("gradient", justify="right")
  modes = result["pyramids"]["narrowing"]
  for mode in modes:
    for distribution in modes[mode]:
      cells = []
      for shape in result["pyramids"]:
        law = result["theory"]["pyramids"][shape][mode]
        found = ends(result["pyramids"][shape][mode][distribution])
        for direction, index in (("forward", -1), ("backward", 0)):
          published = np.log2(law[direction][index])
          cells.append(f"{found[direction][0]:+.2f} ({published:+.2f})")
      table.add_row(f"{mode}, {distribution}", *cells)
  return table


def _squash_table(result: Result) -> Any:
  import rich.table

  table = rich.table.Table(title="hidden layers, first to last (theory)")
  table.add_column("activation, weights")
  table.add_column("E h² of last", justify="right")
  table.add_column("correlation", justify="right")
  table.add_column("log₂ gradient, 1st/last", justify="right")
  for name, inits in result["squashed"].items():
    for init, found in inits.items():
      law = result["theory"]["squashed"][name][init]
      cells = [
        f"{found[key][:, -1].mean():.3g} ({law[key][-1]:.3g})"
        for key in ("second_moment", "correlation")
      ]
      gradient = found["log2_gradient"][:, 0].mean()
      cells.append(f"{gradient:.2f} ({law['log2_gradient'][0]:.2f})")
      table.add_row(f"{name}, {init}", *cells)
  return table
