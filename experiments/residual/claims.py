"""What was measured on residual networks, beside theory, in numbers."""

import math
from typing import Any

import numpy as np

from experiments.common import plots
from experiments.common.training import best_rate
from experiments.runtime.experiment import Claim, Result

DE_SMITH = "De and Smith 2020, §2"


def claims(result: Result) -> list[Claim]:
  """Growth of signal and gradient, and where training starts."""
  return [
    *_of_signals(result),
    *_of_gradients(result),
    *_of_starts(result),
  ]


def _of_signals(result: Result) -> list[Claim]:
  """Errors: two standard errors, and 5/(2n) nats a layer for width n."""
  blocks = result["config"]["forward_blocks"]
  plain = result["signal"]["residual, He"]
  per_block, error = plots.mean_and_error((plain[:, -1] - plain[:, 0]) / blocks)
  shift = 2.5 / result["config"]["forward_width"] / math.log(2)
  normed = result["signal"]["residual, pre-norm"]
  ratio, ratio_error = plots.mean_and_error(
    np.exp2(normed[:, -1] - normed[:, 0])
  )
  return [
    Claim(DE_SMITH, "log₂ growth of the signal per plain block", 1.0,
          float(per_block), float(2 * error + shift)),
    Claim(DE_SMITH, f"signal after {blocks} pre-norm blocks, l + 1",
          blocks + 1.0, float(ratio), float(2 * ratio_error)),
  ]  # fmt: skip


def _of_gradients(result: Result) -> list[Claim]:
  """At the greatest depth; errors: two standard errors, and what width shifts.

  The branch has 1/(l + 1) of the stream of block l, so that width n shifts the
  logarithm by up to 5/(2n)·(1/2 + ... + 1/L), below 5/(2n)·log L nats.
  """
  depths = result["config"]["gradient_depths"]
  last, theory = depths[-1] - 1, result["theory"]
  mean, error = plots.mean_and_error(
    result["gradient"]["residual, pre-norm"][:, -1]
  )
  shift = 2.5 / result["config"]["gradient_width"] * math.log2(last + 1)
  found = [
    Claim("theory, infinite width",
          f"log₂ gradient² of layer 1 of {last + 1}, pre-norm",
          float(theory["gradient"]["residual, pre-norm"][-1]), float(mean),
          float(2 * error + shift)),
  ]  # fmt: skip
  for name in ("plain, He", "plain, Xavier"):
    values = result["gradient"][name]
    known = np.isfinite(values).all(0)
    if not known.any():
      continue
    column = int(np.flatnonzero(known)[-1])
    mean, error = plots.mean_and_error(values[:, column])
    law = theory["gradient"][name][column]
    law = law + theory["finite_width_drift"][column]
    found.append(Claim(
      "Hanin and Nica 2020",
      f"log₂ gradient² of layer 1 of {depths[column]}, {name}",
      float(law), float(mean), float(2 * error),
    ))  # fmt: skip
  return found


def _of_starts(result: Result) -> list[Claim]:
  """A Fixup network starts at the loss of a guess."""
  found = []
  for blocks, kinds in result["digits"].items():
    loss = kinds["Fixup"]["loss"][..., 0]
    found.append(
      Claim("Zhang et al. 2019, §3", f"Fixup: first loss, {blocks} blocks",
            math.log(10), float(loss.mean()), 1e-5)
    )  # fmt: skip
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
