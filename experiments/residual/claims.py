"""What was measured on residual networks, beside theory, in numbers."""

import math
from typing import Any

import numpy as np

from experiments.common import plots
from experiments.common.claims import of_mean, shifted
from experiments.common.tables import new_table
from experiments.common.training import best_rate
from experiments.runtime.experiment import Claim, Result

LEARNS = 0.2
"""test accuracy of a network that has learnt anything: twice chance"""
TRAINED = {
  "zero branch": (1.0, "Zhang et al. 2019, §2"),
  "Fixup": (1.0, "Zhang et al. 2019, §3"),
  "SkipInit": (1.0, "De and Smith 2020, §4"),
  "ReZero": (1.0, "Bachlechner et al. 2021, §3"),
  "residual, He": (0.0, "De and Smith 2020, §2"),
}
"""share of the networks that is said to learn, and where"""


def claims(result: Result) -> list[Claim]:
  """Growth of signal and gradient, Fixup's exponent, and what learns."""
  return [
    *_of_signals(result),
    *_of_gradients(result),
    _of_updates(result),
    *_of_training(result),
  ]


def _of_signals(result: Result) -> list[Claim]:
  """Width n shifts the growth of a plain block by up to 5/(2n) nats."""
  source, width = "De and Smith 2020, §2", result["config"]["forward_width"]
  blocks = result["config"]["forward_blocks"]
  grown = {name: y[:, -1] - y[:, 0] for name, y in result["signal"].items()}
  name = "log₂ growth of the signal per plain block"
  plain = of_mean(source, name, 1.0, grown["residual, He"] / blocks)
  name = f"signal after {blocks} blocks with LayerNorm, l + 1"
  ratios = np.exp2(grown["residual, pre-norm"])
  return [
    shifted(plain, width, 2.5 / width / math.log(2)),
    of_mean(f"{source}, of BatchNorm", name, blocks + 1, ratios),
  ]


def _of_gradients(result: Result) -> list[Claim]:
  """At the greatest depth that float32 can hold.

  The branch has 1/(l + 1) of the stream of block l, so that width n shifts the
  logarithm by up to 5/(2n)·(1/2 + ... + 1/L), below 5/(2n)·log L nats.
  """
  depths, width = (
    result["config"][name] for name in ("gradient_depths", "gradient_width")
  )
  theory = result["theory"]["gradient"]
  drift = result["theory"]["finite_width_drift"]
  found = []
  for name in ("residual, pre-norm", "plain, He", "plain, Xavier"):
    values, law = result["gradient"][name], theory[name]
    plain = name.startswith("plain")
    known = np.flatnonzero(np.isfinite(values).all(0))
    if plain and not known.size:
      continue
    column = int(known[-1]) if plain else -1
    source = "Hanin and Nica 2020, Σ5/n" if plain else "theory, infinite width"
    label = name if plain else "pre-norm"
    quantity = f"log₂ gradient² of layer 1 of {depths[column]}, {label}"
    law = law[column] + drift[column] if plain else law[column]
    claim = of_mean(source, quantity, law, values[:, column])
    shift = 2.5 / width * math.log2(depths[-1])
    found.append(claim if plain else shifted(claim, width, shift))
  return found


def _of_updates(result: Result) -> Claim:
  """Where W₁·L^p makes the first update of L blocks as large as that of one.

  A branch of m = 2 layers changes by the square of W₁'s scale, 2m - 2 = 2.
  """
  ends = [plots.mean_and_two_errors(values) for values in result["updates"]]
  (least, error), (most, other) = ends[0], ends[-1]
  blocks = result["config"]["update_blocks"]
  per_doubling = 4 * math.log2(blocks[-1] / blocks[0])  # 2m - 2, of squares
  source = "Zhang et al. 2019, §3: L^(-1/(2m - 2))"
  quantity = f"exponent of L in W₁, from {blocks[0]} to {blocks[-1]} blocks"
  ours = (least - most) / per_doubling
  return Claim(
    source, quantity, -0.5, ours, math.hypot(error, other) / per_doubling
  )


def _of_training(result: Result) -> list[Claim]:
  """What learns at the greatest depth, by its best rate."""
  blocks, kinds = list(result["digits"].items())[-1]
  found = []
  for name, (published, source) in TRAINED.items():
    final = at_best_rate(kinds[name])[0][:, -1]
    share = float((np.nan_to_num(final) > LEARNS).mean())
    quantity = f"{name}: share of networks of {blocks} blocks that learns"
    why = f"none: to learn is to be right of {LEARNS:.0%}"
    claim = Claim(source, quantity, published, share, 0.0)
    found.append(claim.allowing(0.0, why))
  return found


def at_best_rate(kind: dict[str, np.ndarray]) -> tuple[np.ndarray, int]:
  """Test accuracies [seeds, points] at the best of the rates; which that is."""
  row = best_rate(kind["loss"])
  return kind["test_accuracy"][row], row


def tables(result: Result) -> list[Any]:
  """Gradients by depth, what was learnt, and the identity."""
  return [
    _gradient_table(result),
    _digits_table(result),
    _identity_table(result),
  ]


def _gradient_table(result: Result) -> Any:
  title = "log₂ gradient² of the first layer over the last: measured (theory)"
  depths = (f"{n} layers" for n in result["config"]["gradient_depths"])
  table = new_table(title, "network", *depths, left=1)
  drift = result["theory"]["finite_width_drift"]
  for name, values in result["gradient"].items():
    law = result["theory"]["gradient"][name]
    law = law + drift if name.startswith("plain") else law
    cells = (_cell(v, t) for v, t in zip(values.T, law, strict=True))
    table.add_row(name, *cells)
  return table


def _cell(values: np.ndarray, law: float) -> str:
  """Of all draws, unless float32 could not hold them."""
  if np.isfinite(values).all():
    return f"{values.mean():.1f} ({law:.1f})"
  return f"{'zero' if np.isneginf(values).any() else 'overflow'} ({law:.1f})"


def _by_blocks(title: str, what: str, by_blocks: Any, cell: Any) -> Any:
  """A row for each kind of network, a column for each number of blocks."""
  headings = (f"{blocks} blocks" for blocks in by_blocks)
  table = new_table(title, what, *headings, left=1)
  for name in next(iter(by_blocks.values())):
    table.add_row(name, *(cell(kinds[name]) for kinds in by_blocks.values()))
  return table


def _digits_table(result: Result) -> Any:
  def cell(kind: dict[str, np.ndarray]) -> str:
    accuracy, row = at_best_rate(kind)
    told = plots.percent(*plots.of_finite(accuracy[:, -1]))
    rate = f", rate {result['config']['rates'][row]:g}"
    return told + rate if np.isfinite(accuracy[:, -1]).any() else told

  title = "test accuracy after training, best of the rates"
  return _by_blocks(title, "scheme", result["digits"], cell)


def _identity_table(result: Result) -> Any:
  def cell(error: np.ndarray) -> str:
    course = error[best_rate(error)].mean(0)
    return f"{course[0]:.2f} → {course[-1]:.2g}"

  title = "error of the identity: at first → learnt"
  return _by_blocks(title, "network", result["identity"], cell)
