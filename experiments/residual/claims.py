"""What was measured on residual networks, beside theory, in numbers."""

import math
from typing import Any

import numpy as np

from experiments.common import plots
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
  """Errors: two errors, and of plain blocks 5/(2n) nats each for width n."""
  blocks, width = (
    result["config"][name] for name in ("forward_blocks", "forward_width")
  )
  plain = result["signal"]["residual, He"]
  growth = (plain[:, -1] - plain[:, 0]) / blocks
  per_block, error = plots.mean_and_two_errors(growth)
  shift = 2.5 / width / math.log(2)
  normed = result["signal"]["residual, pre-norm"]
  ratios = np.exp2(normed[:, -1] - normed[:, 0])
  return [
    Claim("De and Smith 2020, §2", "log₂ growth of the signal per plain block",
          1.0, per_block, error + shift, "allowance",
          f"a width of {width} shifts it by up to {shift:.2g}"),
    Claim("De and Smith 2020, §2, of BatchNorm",
          f"signal after {blocks} blocks with LayerNorm, l + 1",
          blocks + 1.0, *plots.mean_and_two_errors(ratios)),
  ]  # fmt: skip


def _of_gradients(result: Result) -> list[Claim]:
  """At the greatest depth; errors: two errors, and what width shifts.

  The branch has 1/(l + 1) of the stream of block l, so that width n shifts the
  logarithm by up to 5/(2n)·(1/2 + ... + 1/L), below 5/(2n)·log L nats.
  """
  depths = result["config"]["gradient_depths"]
  last, theory = depths[-1] - 1, result["theory"]
  width = result["config"]["gradient_width"]
  values = result["gradient"]["residual, pre-norm"][:, -1]
  mean, error = plots.mean_and_two_errors(values)
  shift = 2.5 / width * math.log2(last + 1)
  found = [
    Claim("theory, infinite width",
          f"log₂ gradient² of layer 1 of {last + 1}, pre-norm",
          float(theory["gradient"]["residual, pre-norm"][-1]), mean,
          error + shift, "allowance",
          f"a width of {width} shifts it by up to {shift:.2g}"),
  ]  # fmt: skip
  for name in ("plain, He", "plain, Xavier"):
    values = result["gradient"][name]
    known = np.isfinite(values).all(0)
    if not known.any():
      continue
    column = int(np.flatnonzero(known)[-1])
    law = theory["gradient"][name][column]
    law = law + theory["finite_width_drift"][column]
    found.append(Claim(
      "Hanin and Nica 2020, Σ5/n",
      f"log₂ gradient² of layer 1 of {depths[column]}, {name}",
      float(law), *plots.mean_and_two_errors(values[:, column]),
    ))  # fmt: skip
  return found


def _of_updates(result: Result) -> Claim:
  """Where W₁·L^p makes the first update of L blocks as large as that of one.

  A branch of m = 2 layers changes by the square of W₁'s scale, 2m - 2 = 2.
  """
  ends = [plots.mean_and_two_errors(values) for values in result["updates"]]
  (least, error), (most, other) = ends[0], ends[-1]
  blocks = result["config"]["update_blocks"]
  doublings = math.log2(blocks[-1] / blocks[0])
  m = 2
  per_doubling = 2 * (2 * m - 2) * doublings  # of squares
  return Claim(
    "Zhang et al. 2019, §3: L^(-1/(2m - 2))",
    f"exponent of L in W₁, from {blocks[0]} to {blocks[-1]} blocks",
    -1 / (2 * m - 2), (least - most) / per_doubling,
    math.hypot(error, other) / per_doubling,
  )  # fmt: skip


def _of_training(result: Result) -> list[Claim]:
  """What learns at the greatest depth, by its best rate."""
  blocks, kinds = list(result["digits"].items())[-1]
  found = []
  for name, (published, source) in TRAINED.items():
    row = best_rate(kinds[name]["loss"])
    final = kinds[name]["test_accuracy"][row, :, -1]
    share = float((np.nan_to_num(final) > LEARNS).mean())
    quantity = f"{name}: share of networks of {blocks} blocks that learns"
    why = f"none: to learn is to be right of {LEARNS:.0%}"
    found.append(
      Claim(source, quantity, published, share, 0.0, "allowance", why)
    )
  return found


def tables(result: Result) -> list[Any]:
  """Gradients by depth, what was learnt, and the identity."""
  return [
    _gradient_table(result),
    _digits_table(result),
    _identity_table(result),
  ]


def _gradient_table(result: Result) -> Any:
  import rich.table

  table = rich.table.Table(
    title="log₂ gradient² of the first layer over the last: measured (theory)"
  )
  table.add_column("network")
  for depth in result["config"]["gradient_depths"]:
    table.add_column(f"{depth} layers", justify="right")
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


def _digits_table(result: Result) -> Any:
  import rich.table

  table = rich.table.Table(
    title="test accuracy after training, best of the rates"
  )
  table.add_column("scheme")
  for blocks in result["digits"]:
    table.add_column(f"{blocks} blocks", justify="right")
  for name in next(iter(result["digits"].values())):
    cells = []
    for kinds in result["digits"].values():
      row = best_rate(kinds[name]["loss"])
      final = kinds[name]["test_accuracy"][row, :, -1]
      told = plots.percent(*plots.of_finite(final))
      if np.isfinite(final).any():
        told += f", rate {result['config']['rates'][row]:g}"
      cells.append(told)
    table.add_row(name, *cells)
  return table


def _identity_table(result: Result) -> Any:
  import rich.table

  table = rich.table.Table(title="error of the identity: at first → learnt")
  table.add_column("network")
  for blocks in result["identity"]:
    table.add_column(f"{blocks} blocks", justify="right")
  for name in next(iter(result["identity"].values())):
    cells = []
    for kinds in result["identity"].values():
      course = kinds[name][best_rate(kinds[name])].mean(0)
      cells.append(f"{course[0]:.2f} → {course[-1]:.2g}")
    table.add_row(name, *cells)
  return table
