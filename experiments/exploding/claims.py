"""What `exploding` says of numbers of the literature."""

import math

import numpy as np

from experiments.common import plots
from experiments.runtime.experiment import Claim, Result

LANCZOS = 1e-4
"""Error of λ_max, over itself: 400 roundings of float32 in X·v"""
LEARNT = 0.5
"""Test accuracy of a network that learns"""
LECUN, PASCANU = "LeCun et al. 1998, §5.1", "Pascanu et al. 2013, §3.2, §6"


def claims(result: Result) -> list[Claim]:
  """Growth by layer; λ_max; where descent diverges, and how fast; clipping."""
  return [
    *_growths(result),
    _largest(result),
    *_threshold(result),
    *_speeds(result),
    *_learning(result),
    _still(result),
  ]


def _growths(result: Result) -> list[Claim]:
  """½·log₂(σ_w²/2) bits a layer, and the drift of width n."""
  found = []
  for variance, size, law in zip(
    result["variances"], result["log2_size"], result["growth_law"], strict=True
  ):
    if np.isfinite(law["mean"]):  # else too many layers for many inputs
      layers = size.shape[-1] - 1
      ours = float((size[:, -1] - size[:, 0]).mean() / layers)
      chance = 3 * law["std"] / math.sqrt(len(size)) / layers
      source = "Schoenholz et al. 2017, Eq. 15; finite n"
      name = f"log₂ of gradient a layer, σ_w² = {variance:g}"
      expected = law["mean"] / layers
      found.append(Claim(source, name, expected, ours, chance, "law"))
  return found


def _largest(result: Result) -> Claim:
  exact = result["exact_lambdas"][0]
  ours = float(result["descents"]["quadratic"]["start"].mean())
  name = "λ_max of linear regression, by Lanczos"
  claim = Claim("linear algebra", name, exact, ours, 0.0)
  return claim.allowing(LANCZOS * exact, "400 roundings of float32")


def _threshold(result: Result) -> list[Claim]:
  bracket = threshold(result, "quadratic")
  if not bracket:
    return []
  low, high = bracket
  name = "rate of divergence over 2/λ_max, quadratic"
  claim = Claim(LECUN, name, 1.0, (low + high) / 2, 0.0)
  return [claim.allowing((high - low) / 2, "half a step of the grid of rates")]


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

  That is what the direction of λ_max does; allowed is what the others add, as
  if all had started with the same part of the loss, and the error of λ_max.
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
    name = f"growth of log loss an update, {factor:g}·2/λ_max"
    law, chance = 2 * math.log(2 * factor - 1), float(2 * error + others)
    claim = Claim("linear algebra", name, law, float(mean), chance)
    why = "other eigenvalues still grow; error of λ_max"
    found.append(claim.allowing(rates, why))
  return found


def learning(result: Result, cause: str, clipping: str) -> float:
  """Share of networks that learn; those that diverged do not."""
  index = result["clipping"].index(clipping)
  accuracy = result["causes"][cause]["test_accuracy"][index, :, -1]
  return float((np.nan_to_num(accuracy) > LEARNT).mean())


def _learning(result: Result) -> list[Claim]:
  """Who learns, clipped by norm or not."""
  norm, found = "by global norm", []
  for source, cause, clipping, published in (
    (LECUN, "rate × 10", "none", 0.0),
    (PASCANU, "rate × 10", norm, 1.0),
    (PASCANU, "recurrent", "none", 0.0),
    (PASCANU, "recurrent", norm, 1.0),
    ("Glorot and Bengio 2010", "normal(1.0)", "none", 0.0),
  ):
    name = f"share that learns: {cause}, clipping {clipping}"
    share = learning(result, cause, clipping)
    claim = Claim(source, name, published, share, 0.0)
    one = 1 / result["seeds"]
    found.append(claim.allowing(one, "one network may be an exception"))
  return found


def _still(result: Result) -> Claim:
  """What normal(0.01) does not learn."""
  loss = float(result["causes"]["normal(0.01)"]["loss"][0, :, -1].mean())
  source, name = "He et al. 2015, §2.2", "loss from normal(0.01), nats (chance)"
  claim = Claim(source, name, math.log(10), loss, 0.0)
  return claim.allowing(0.01, "SGD's noise in the readout")
