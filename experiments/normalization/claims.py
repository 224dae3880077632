"""What was measured on normalized networks, beside theory, in numbers."""

from typing import Any

import numpy as np

from experiments.common import plots
from experiments.common.claims import of_mean, shifted
from experiments.common.tables import new_table
from experiments.normalization.theory import measured_growth
from experiments.runtime.experiment import Claim, Result

NAMES = {
  "batch": "BatchNorm",
  "layer": "LayerNorm",
  "none": "none",
  "linear": "linear, BatchNorm",
}
SOURCES = {
  "batch": "Ioffe and Szegedy 2015, §3.3",
  "layer": "Ba et al. 2016, §5.1",
}
GROWTH_SOURCES = {
  "batch": "derived here for batch B",
  "layer": "theory: χ₁/q = 1",
  "none": "He et al. 2015, Eq. 14",
  "linear": "Yang et al. 2019: (B - 2)/(B - 3)",
}


def claims(result: Result) -> list[Claim]:
  """Forward the scale is gone; backward BatchNorm explodes, LayerNorm not."""
  found = []
  for kind in result["config"]["kinds"]:
    if kind != "none":
      found += _of_scale(kind, result)
  for kind in result["gradients"]:
    found += _of_growth(kind, result)
  return found + _of_the_limit(result)


def _ends(result: Result) -> tuple[list[int], float]:
  """First and last scale that ε does not matter to; decades between them."""
  scales = np.array(result["config"]["scales"])
  large = np.flatnonzero(scales >= 0.1)
  ends = [int(large[np.argmin(scales[large])]), int(np.argmax(scales))]
  return ends, float(np.log10(scales[ends[1]] / scales[ends[0]]))


def _of_scale(kind: str, result: Result) -> list[Claim]:
  """Errors: twice what ε leaves at the smallest scale; two errors."""
  ends, decades = _ends(result)
  name, source = NAMES[kind], SOURCES[kind]
  measured = result["scales"][kind]
  growth = float(np.diff(measured["forward"].mean(1)[ends])[0])
  left = 2 * float(np.diff(result["theory"]["forward"][kind][ends])[0])
  slope = np.diff(measured["kernel_gradient"].mean(1)[ends])[0]
  per_decade = float(slope / (2 * np.log2(10)) / decades)
  depth = result["config"]["depths"][0]
  over = f"over {decades:.0f} decades of σ_w"
  at_he = 2.0 ** measured["forward"][result["config"]["scales"].index(1.0)]
  why = "twice what ε leaves at the smallest scale"
  forward = f"{name}: log₂ growth of signal {over}"
  backward = f"{name}: exponent of σ_w in kernel gradients"
  forgets = Claim(source, forward, 0.0, growth, 0.0)
  scales = Claim(source, backward, -1.0, per_decade, 0.0)
  law = "E[relu(z)²], z ~ N(0, 1)"
  size = f"{name}: second moment of activations"
  return [
    forgets.allowing(left + 1e-5, why),
    scales.allowing((depth * left + 1e-5) / decades, why),
    of_mean(law, size, 0.5, at_he),
  ]


def _growth(kind: str, batch: str, result: Result) -> tuple[float, float]:
  """Per layer: mean, and two errors."""
  values = measured_growth(result["gradients"][kind][batch])
  return plots.mean_and_two_errors(values)


def _of_growth(kind: str, result: Result) -> list[Claim]:
  """Errors: two errors, and what width n shifts.

  A ReLU layer of width n lowers or raises the mean logarithm of a signal's
  second moment by up to 5/(2n) (Hanin and Nica 2020). Theory lets the width
  grow at a given batch: once batches are as large as the width, so that n units
  do not tell all images apart, the growth is less, and nothing is claimed.
  """
  found = []
  width = result["config"]["gradient_width"]
  for batch in result["gradients"][kind]:
    if 2 * int(batch) > width:
      continue
    published = result["theory"]["growth"][kind][batch]
    quantity = f"{NAMES[kind]}: gradient² growth per layer, batch {batch}"
    growth = _growth(kind, batch, result)
    claim = Claim(GROWTH_SOURCES[kind], quantity, published, *growth)
    found.append(shifted(claim, width, 2.5 / width * published))
  return found


def _of_the_limit(result: Result) -> list[Claim]:
  """π/(π - 1), on the line through the two largest batches, over 1/B."""
  batches = sorted(map(int, result["gradients"].get("batch", ())))[-2:]
  width = result["config"]["gradient_width"]
  if len(batches) < 2 or 2 * batches[-1] > width:
    return []
  few, many = batches
  weights = np.array([-few, many]) / (many - few)
  growths = np.array([_growth("batch", str(b), result) for b in batches])
  theory = result["theory"]["growth"]["batch"]
  limit = result["theory"]["limit"]["batch"]
  bend = abs(weights @ [theory[str(b)] for b in batches] - limit)
  error = float(np.hypot(*(weights * growths[:, 1])) + bend)
  quantity = f"{NAMES['batch']}: gradient² growth per layer, batch"
  source, ours = "Yang et al. 2019: π/(π - 1)", float(weights @ growths[:, 0])
  claim = Claim(source, f"{quantity} → ∞", limit, ours, error)
  law = f"{bend:.2g} for a law that is not quite linear in 1/B"
  claim = claim.allowing(2.5 / width * limit, f"width {width}, and {law}")
  return [claim._replace(shares=f"{quantity} {many}")]


def tables(result: Result) -> list[Any]:
  """By scale, by layer, and what was learnt."""
  return [_scale_table(result), _growth_table(result), _accuracy_table(result)]


def _scale_table(result: Result) -> Any:
  table = new_table(
    "second moment of the last activations: measured (theory)", "σ_w over He's"
  )
  kinds = result["config"]["kinds"]
  for kind in kinds:
    table.add_column(NAMES[kind], justify="right")
  for i, scale in enumerate(result["config"]["scales"]):
    cells = []
    for kind in kinds:
      forward = np.float64(result["scales"][kind]["forward"][i])
      mean = 2.0 ** forward.mean()
      law = 2.0 ** result["theory"]["forward"][kind][i]
      cells.append(f"{mean:.3g} ({law:.3g})")
    table.add_row(f"{scale:g}", *cells)
  return table


def _growth_table(result: Result) -> Any:
  title = "growth of squared gradients per layer"
  headings = "network", "batch", "measured", "theory", "batch → ∞"
  table = new_table(title, *headings)
  for kind, by_batch in result["gradients"].items():
    for batch in by_batch:
      mean, error = _growth(kind, batch, result)
      table.add_row(
        NAMES[kind],
        batch,
        f"{mean:.3f} ± {error:.3f}",
        f"{result['theory']['growth'][kind][batch]:.3f}",
        f"{result['theory']['limit'][kind]:.3f}",
      )
  return table


def _accuracy_table(result: Result) -> Any:
  table = new_table(
    "test accuracy after training", "hidden layers", "σ_w over He's"
  )
  kinds = result["config"]["kinds"]
  for kind in kinds:
    table.add_column(NAMES[kind], justify="right")
  for depth in result["config"]["depths"]:
    first = depth == result["config"]["depths"][0]
    scales = result["config"]["scales"] if first else (1.0,)
    for i, scale in enumerate(scales):
      cells = []
      for kind in kinds:
        found = result["courses"][kind][str(depth)]["test_accuracy"]
        cells.append(plots.percent(*plots.of_finite(found[i, :, -1])))
      table.add_row(str(depth), f"{scale:g}", *cells)
  return table
