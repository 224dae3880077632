"""What Xavier's measurements say of published numbers, and as tables."""

from typing import Any

import numpy as np

from experiments.common.claims import of_mean
from experiments.common.fan_networks import cells_at_ends, claims_at_ends
from experiments.common.plots import mean_and_two_errors
from experiments.common.tables import new_table
from experiments.runtime.experiment import Claim, Result

GLOROT = "Glorot and Bengio 2010"
SINGULAR = {"normalized": 0.8, "standard": 0.5}
"""mean singular values of layers' Jacobians, as published"""


def variance_law(widths: Any) -> float:
  """Of ln q of one input in Gaussian linear layers.

  Each |x_l|²/|x_{l-1}|² is a χ²_n/n, whose logarithm has the variance ψ'(n/2).
  """
  from scipy import special

  n = np.array(widths, np.float64)
  return float(special.polygamma(1, n / 2).sum())


def variances(last: Any) -> np.ndarray:
  """[runs], whose mean is Var ln q over runs, the mean of it over inputs.

  Args:
    last: q of the last layer by input, [runs, batch].
  """
  logs = np.log(np.asarray(last, np.float64))
  squares = ((logs - logs.mean(0)) ** 2).mean(1)
  return squares * len(logs) / (len(logs) - 1)


def claims(result: Result) -> list[Claim]:
  """Formulas of Glorot and Bengio, and what theory says of the sigmoid."""
  return [
    *_pyramid_claims(result),
    *_distribution_claims(result),
    *_standard_claims(result),
    *_singular_claims(result),
    *_sigmoid_claims(result),
  ]


def _pyramid_claims(result: Result) -> list[Claim]:
  return [
    claim
    for shape, modes in result["pyramids"].items()
    for mode, equation in (("fan_in", 10), ("fan_avg", 12))
    for claim in claims_at_ends(
      f"{shape}, {mode}",
      f"{GLOROT}, Eq. {equation}",
      modes[mode]["normal"],
      result["theory"]["pyramids"][shape][mode],
    )
  ]


def _distribution_claims(result: Result) -> list[Claim]:
  """Uniform or normal: the same second moments, compared pyramid by pyramid.

  Both are made of the same random numbers, so that most of chance cancels.
  """
  found = []
  for shape, modes in result["pyramids"].items():
    ends = [seen["forward"][:, -1] for seen in modes["fan_avg"].values()]
    normal, uniform = (end / end.mean() for end in ends)
    error = mean_and_two_errors(np.log2(np.e) * (uniform - normal))[1]
    name = f"{shape}: log₂ signal, uniform less normal weights"
    ours = float(np.log2(ends[1].mean() / ends[0].mean()))
    found.append(Claim(f"{GLOROT}, Eq. 16", name, 0.0, ours, error))
    name = f"{shape}: variance of one input's ln q over nets"
    values = variances(modes["fan_avg"]["normal"]["last"])
    law = variance_law(result["widths"][shape])
    source = "elementary: Σψ'(n/2), χ² of each layer"
    found.append(Claim(source, name, law, *mean_and_two_errors(values)))
  return found


def last_step(found: dict[str, Any], name: str) -> tuple[float, float]:
  """How much the last layer changes a log₂ second moment; two errors."""
  return mean_and_two_errors(found[name][:, -1] - found[name][:, -2])


def _standard_claims(result: Result) -> list[Claim]:
  """A standard layer keeps a third; its kernels' gradients are all alike.

  tanh bends: E[tanh²] = q - 2q² + ..., E[tanh'²] = 1 - 2q + ..., so a third is
  off by up to 2q, and gradients of successive kernels by up to 4q.
  """
  found = result["squashed"]["tanh"]["standard"]
  q = float(result["theory"]["squashed"]["tanh"]["standard"]["q"][-3])
  bend = float(2 * q / np.log(2))
  why = f"tanh bends by up to 2q = {2 * q:.2g} a factor"
  signal, error = mean_and_two_errors(found["q"][:, -1] / found["q"][:, -2])
  step, step_error = last_step(found, "log2_gradient")
  kernel, kernel_error = last_step(found, "log2_kernel_gradient")
  slope = 2**-step * float(np.log(2))
  name = "tanh, standard: gradient kept by a layer"
  eq14, eq15 = f"{GLOROT}, Eq. 14", f"{GLOROT}, Eq. 15"
  kept = Claim(eq15, name.replace("gradient", "signal"), 1 / 3, signal, error)
  passed = Claim(eq15, name, 1 / 3, 2**-step, 0.0)
  alike = "tanh, standard: log₂ kernel gradient, one layer over the next"
  kernels = Claim(eq14, alike, 0.0, kernel, kernel_error, shares=name)
  return [
    kept.allowing(2 * q / 3, why),
    passed.allowing(slope * (step_error + bend), why),
    kernels.allowing(2 * bend, why),
  ]


def _singular_claims(result: Result) -> list[Claim]:
  """Published to one digit: half a unit of it beside two errors."""
  found = []
  for init, published in SINGULAR.items():
    values = result["singular_values"][init].mean((1, 2))
    name = f"tanh, {init}: mean singular value of a layer"
    claim = of_mean(f"{GLOROT}, §4.2.1", name, published, values)
    found.append(claim.allowing(0.05, "one digit is published"))
  return found


def _sigmoid_claims(result: Result) -> list[Claim]:
  """Theory of infinite width: its drift at ours adds to two errors."""
  found = []
  for name in ("sigmoid", "tanh", "4·(sigmoid - ½)"):
    measured = result["squashed"][name]["normalized"]["log2_gradient"][:, 0]
    law = result["theory"]["squashed"][name]["normalized"]
    drift = abs(float(law["log2_gradient_drift"][0]))
    quantity = f"{name}, normalized: log₂ gradient, first layer over last"
    source = "Schoenholz et al. 2017, Eq. 15"
    claim = of_mean(source, quantity, law["log2_gradient"][0], measured)
    why = f"width: one input drifts by {drift:.2g}, a batch by less"
    found.append(claim.allowing(drift, why))
  return found


def tables(result: Result) -> list[Any]:
  """Where pyramids end; and what squashing does."""
  return [_pyramid_table(result), _squash_table(result)]


def _pyramid_table(result: Result) -> Any:
  table = new_table("pyramids: log₂ second moments (theory)", "weights", left=1)
  for shape in result["pyramids"]:
    table.add_column(f"{shape}: signal", justify="right")
    table.add_column("gradient", justify="right")
  pyramids, laws = result["pyramids"], result["theory"]["pyramids"]
  for mode, distributions in pyramids["narrowing"].items():
    for distribution in distributions:
      cells = [
        cell
        for shape, modes in pyramids.items()
        for cell in cells_at_ends(modes[mode][distribution], laws[shape][mode])
      ]
      table.add_row(f"{mode}, {distribution}", *cells)
  return table


def _squash_table(result: Result) -> Any:
  title = "hidden layers, first to last (theory)"
  numbers = "E h² of last", "correlation", "log₂ gradient, 1st/last"
  table = new_table(title, "activation, weights", *numbers, left=1)
  ends = {"second_moment": -1, "correlation": -1, "log2_gradient": 0}
  for name, inits in result["squashed"].items():
    for init, found in inits.items():
      law = result["theory"]["squashed"][name][init]
      cells = [
        f"{found[key][:, end].mean():.3g} ({law[key][end]:.3g})"
        for key, end in ends.items()
      ]
      table.add_row(f"{name}, {init}", *cells)
  return table
