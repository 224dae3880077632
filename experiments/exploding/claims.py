"""What `exploding` says of numbers of the literature."""

import math

import numpy as np

from experiments.common import plots
from experiments.runtime.experiment import Claim, Result

LANCZOS = 1e-4
"""Error of λ_max, over itself: 400 roundings of float32 in X·v"""
LEARNT = 0.5
"""Test accuracy of a network that learns"""


def claims(result: Result) -> list[Claim]:
  """Growth by layer; λ_max; where descent diverges, and how fast; clipping."""
  found = [
    _growth(result, index)
    for index, law in enumerate(result["growth_law"])
    if np.isfinite(law["mean"])  # else too many layers for a law of many inputs
  ]
  quadratic, exact = result["descents"]["quadratic"], result["exact_lambdas"][0]
  found.append(
    Claim(
      "linear algebra", "λ_max of linear regression, by Lanczos",
      exact, float(quadratic["start"].mean()),
      LANCZOS * exact, "allowance", "400 roundings of float32",
    )
  )  # fmt: skip
  if bracket := threshold(result, "quadratic"):
    low, high = bracket
    found.append(
      Claim(
        "LeCun et al. 1998, §5.1", "rate of divergence over 2/λ_max, quadratic",
        1.0, (low + high) / 2, (high - low) / 2, "allowance",
        "half a step of the grid of rates",
      )
    )  # fmt: skip
  return found + _speeds(result) + _learning(result)


def _growth(result: Result, index: int) -> Claim:
  """½·log₂(σ_w²/2) bits a layer, and the drift of width n."""
  size, law = result["log2_size"][index], result["growth_law"][index]
  layers = size.shape[-1] - 1
  return Claim(
    "Schoenholz et al. 2017, Eq. 15; finite n",
    f"log₂ of gradient a layer, σ_w² = {result['variances'][index]:g}",
    law["mean"] / layers, float((size[:, -1] - size[:, 0]).mean() / layers),
    3 * law["std"] / math.sqrt(len(size)) / layers, "law",
  )  # fmt: skip


def threshold(result: Result, name: str) -> tuple[float, float] | None:
  """Neighbouring factors: below the second, no seed ends above its start.

  None if the factors hold no such pair: all diverge, or none does.
  """
  loss = result["descents"][name]["loss"]
  kept = np.isfinite(loss).all(-1) & (loss[..., -1] <= loss[..., 0])
  factors = np.array(result["factors"])
  order = np.argsort(factors)
  alive = kept[order].all(-1)
  first = int(np.argmin(alive))
  if alive.all() or first == 0:
    return None
  return float(factors[order][first - 1]), float(factors[order][first])


def _speeds(result: Result) -> list[Claim]:
  """Quadratic: each update multiplies the loss by (2·factor - 1)².

  That is what the direction of λ_max does; errors: two standard errors, and
  what the others add, as if all had started with the same part of the loss; and
  the error of λ_max, by which rates are chosen.
  """
  loss = result["descents"]["quadratic"]["loss"].astype(np.float64)
  lambdas = result["exact_lambdas"] / result["exact_lambdas"][0]
  found = []
  for factor, curves in zip(result["factors"], loss, strict=True):
    if not 1.4 <= factor <= 5:
      continue
    curves = np.where(np.isfinite(curves) & (curves < 1e30), curves, np.nan)
    last = np.flatnonzero(np.isfinite(curves).all(0))[-1]
    rate = np.log(curves[:, last] / curves[:, last - 4]) / 4
    mean, error = plots.mean_and_error(rate)
    powers = np.abs(2 * factor * lambdas - 1) ** (2 * (last - 4))
    others = powers[1:].sum() / powers[0] / 4
    rates = 4 * factor / (2 * factor - 1) * LANCZOS
    found.append(
      Claim(
        "linear algebra", f"growth of log loss an update, {factor:g}·2/λ_max",
        2 * math.log(2 * factor - 1), float(mean),
        float(2 * error + others + rates), "allowance",
        "other eigenvalues still grow; error of λ_max",
      )
    )  # fmt: skip
  return found


def learning(result: Result, cause: str, clipping: str) -> float:
  """Share of networks that learn; those that diverged do not."""
  index = result["clipping"].index(clipping)
  accuracy = result["causes"][cause]["test_accuracy"][index, :, -1]
  return float((np.nan_to_num(accuracy) > LEARNT).mean())


def _learning(result: Result) -> list[Claim]:
  """Who learns, clipped by norm or not; and what normal(0.01) does not."""
  norm = "by global norm"
  source = "Pascanu et al. 2013, §3.2, §6"
  expected = [
    ("LeCun et al. 1998, §5.1", "rate × 10", "none", 0.0),
    (source, "rate × 10", norm, 1.0),
    (source, "recurrent", "none", 0.0),
    (source, "recurrent", norm, 1.0),
    ("Glorot and Bengio 2010", "normal(1.0)", "none", 0.0),
  ]
  found = [
    Claim(
      source, f"share that learns: {cause}, clipping {clipping}", published,
      learning(result, cause, clipping), 1 / result["seeds"], "allowance",
      "one network may be an exception",
    )
    for source, cause, clipping, published in expected
  ]  # fmt: skip
  still = result["causes"]["normal(0.01)"]["loss"][0, :, -1]
  return [
    *found,
    Claim(
      "He et al. 2015, §2.2", "loss from normal(0.01), nats (chance)",
      math.log(10), float(still.mean()), 0.01, "allowance",
      "SGD's noise in the readout",
    ),
  ]  # fmt: skip
