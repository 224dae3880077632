"""What `vanishing` says of numbers of the literature."""

import math

import numpy as np

from experiments.common.claims import of_mean
from experiments.runtime.experiment import Claim, Result
from experiments.vanishing import theory
from experiments.vanishing.networks import ISOMETRY, KINDS

ROUNDING = 2.0**-20
"""Of a relative variance that is 0, in products of float32 matrices"""


def claims(result: Result) -> list[Claim]:
  """Decay by layer, spread, underflow, saturation, and what is learnt."""
  return [
    *(_decay(result, name) for name in ("sigmoid", "relu")),
    *_isometry(result),
    *_underflow(result),
    *_saturated(result),
    *_still_saturated(result),
    _chance(result),
  ]


def _decay(result: Result, name: str) -> Claim:
  """Bits a layer of the product of Jacobians, from k = 6 to half the depth."""
  size = result["kinds"][name]["spectrum"]["mean"]
  stop = result["depth"] // 2
  law = theory.decay(KINDS[name], result["width"], 6, stop + 1)
  source = "Schoenholz et al. 2017, Eq. 15; finite n"
  quantity = f"log₂ of singular values (root mean square) a layer, {name}"
  return of_mean(
    source, quantity, law, (size[:, stop] - size[:, 5]) / (stop - 5)
  )


def _isometry(result: Result) -> list[Claim]:
  """κ·L for products of L Gaussian Jacobians, 0 for orthogonal ones."""
  found, claims = result["isometry"], []
  depth = found["measured"].shape[-1]
  what = "relative variance of squared singular values, product of "
  source = "Pennington et al. 2017, §2.4; finite n"
  for i, (name, slope) in enumerate(ISOMETRY.items()):
    limit = f"{slope:g}·{depth}" if slope else "0"
    quantity = f"{what}{depth} Jacobians, {name} (n → ∞: {limit})"
    law, ours, error = (
      float(found[key][i][-1]) for key in ("theory", "measured", "error")
    )
    claims.append(Claim(source, quantity, law, ours, error + ROUNDING))
  return claims


def _underflow(result: Result) -> list[Claim]:
  """A layer for rounding, two standard errors of theory."""
  found: list[Claim] = []
  name = "layers below the output where all of a gradient is 0"
  for dtype, numbers in result["underflow"].items():
    sigmoid = numbers["kinds"]["sigmoid"]
    layer, spread = (sigmoid["predicted"][x] for x in ("by_trajectory", "std"))
    if not math.isfinite(layer):
      continue
    # bfloat16 has the exponents of float32, and the networks are the same
    shares = f"{name}, float32" if dtype == "bfloat16" and found else ""
    ours = float(sigmoid["observed"].mean())
    source = "Schoenholz et al. 2017, χ₁"
    chance = 2 * spread / math.sqrt(result["seeds"])
    claim = Claim(
      source, f"{name}, {dtype}", layer, ours, chance, shares=shares
    )
    why = "layers are whole numbers: one is allowed"
    found.append(claim.allowing(1, why))
  return found


def _saturated(result: Result) -> list[Claim]:
  """Slopes of z ~ N(0, q*), where theory expects any that are small."""
  found = []
  for name, seen in result["saturation"].items():
    published = float(seen["theory"][:2].sum())
    if published < 1e-3:  # none was seen, and none would be
      continue
    share = f"share of units with φ'/φ'(0) < 0.1, {name}"
    through = f"part of a gradient's power that slopes let through, {name}"
    few, passed = seen["measured"][:, :2].sum(-1), seen["let_through"]
    source, law = "Schoenholz et al. 2017, χ₁", seen["let_through_theory"]
    found.append(of_mean("Poole et al. 2016, q*", share, published, few))
    found.append(of_mean(source, through, law, passed)._replace(shares=share))
  return found


def _still_saturated(result: Result) -> list[Claim]:
  """The most saturated of each activation: whether training frees its units."""
  saturation = result["saturation"].items()
  found = {seen["activation"]: (name, seen) for name, seen in saturation}
  source = "Glorot and Bengio 2010, §3"
  what = "share of saturated units after training less at birth"
  why = "saturated units stay so: two in a hundred may change"
  return [
    Claim(source, f"{what}, {name}", 0.0, freed, 0.0).allowing(0.02, why)
    for name, seen in found.values()
    for freed in [float(np.diff(seen["saturated"][:, [0, -1]]).mean())]
  ]


def _chance(result: Result) -> Claim:
  loss = float(result["courses"]["sigmoid"]["loss"][:, -1].mean())
  name = f"loss of {result['train_depth']} sigmoid layers, nats (chance)"
  source = "Glorot and Bengio 2010, §3.1"
  claim = Claim(source, name, math.log(10), loss, 0.0)
  return claim.allowing(0.01, "SGD's noise in the readout")
