"""What `vanishing` says of numbers of the literature."""

import math

import numpy as np

from experiments.common import plots
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
  found = (size[:, stop] - size[:, 5]) / (stop - 5)
  return Claim(
    "Schoenholz et al. 2017, Eq. 15; finite n",
    f"log₂ of singular values (root mean square) a layer, {name}",
    law, *plots.mean_and_two_errors(found),
  )  # fmt: skip


def _isometry(result: Result) -> list[Claim]:
  """κ·L for products of L Gaussian Jacobians, 0 for orthogonal ones."""
  found, claims = result["isometry"], []
  for i, (name, slope) in enumerate(ISOMETRY.items()):
    depth = found["measured"].shape[-1]
    limit = f"{slope:g}·{depth}" if slope else "0"
    claims.append(
      Claim(
        "Pennington et al. 2017, §2.4; finite n",
        "relative variance of squared singular values, product of "
        f"{depth} Jacobians, {name} (n → ∞: {limit})",
        float(found["theory"][i][-1]), float(found["measured"][i, -1]),
        float(found["error"][i, -1]) + ROUNDING,
      )
    )  # fmt: skip
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
    found.append(
      Claim(
        "Schoenholz et al. 2017, χ₁", f"{name}, {dtype}", layer,
        float(sigmoid["observed"].mean()),
        1 + 2 * spread / math.sqrt(result["seeds"]), "allowance",
        "layers are whole numbers: one is allowed", shares,
      )
    )  # fmt: skip
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
    shares, power = seen["measured"][:, :2].sum(-1), seen["let_through"]
    few, passed = (plots.mean_and_two_errors(x) for x in (shares, power))
    found += [
      Claim("Poole et al. 2016, q*", share, published, *few),
      Claim("Schoenholz et al. 2017, χ₁", through, seen["let_through_theory"],
            *passed, shares=share),
    ]  # fmt: skip
  return found


def _still_saturated(result: Result) -> list[Claim]:
  """The most saturated of each activation: whether training frees its units."""
  found = {seen["activation"]: (name, seen) for name, seen in
           result["saturation"].items()}  # fmt: skip
  return [
    Claim(
      "Glorot and Bengio 2010, §3",
      f"share of saturated units after training less at birth, {name}", 0.0,
      float(np.diff(seen["saturated"][:, [0, -1]]).mean()), 0.02, "allowance",
      "saturated units stay so: two in a hundred may change",
    )
    for name, seen in found.values()
  ]  # fmt: skip


def _chance(result: Result) -> Claim:
  final = result["courses"]["sigmoid"]["loss"][:, -1]
  return Claim(
    "Glorot and Bengio 2010, §3.1",
    f"loss of {result['train_depth']} sigmoid layers, nats (chance)",
    math.log(10), float(final.mean()), 0.01, "allowance",
    "SGD's noise in the readout",
  )  # fmt: skip
