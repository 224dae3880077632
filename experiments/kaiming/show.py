"""Tables, figure and claims of `kaiming`."""

from typing import Any

import numpy as np

from experiments.common import fan_networks, plots
from experiments.common.fan_networks import (
  MODE_NAMES,
  cells_at_ends,
  claims_at_ends,
)
from experiments.common.plots import mean_and_error, mean_and_two_errors
from experiments.common.tables import new_table
from experiments.runtime.experiment import Claim, Result

HE = "He et al. 2015"


def kept(result: Result, direction: str) -> tuple[np.ndarray, np.ndarray]:
  """What a layer keeps, by slope [slopes]: mean and its error over networks."""
  return mean_and_error(np.asarray(result["slopes"][direction]).mean(-1), 1)


def claims(result: Result) -> list[Claim]:
  """What a layer keeps, how products of fans telescope, and what stalls."""
  return [
    *_slope_claims(result),
    *_fan_claims(result),
    _shrinkage_claim(result),
    *_training_claims(result),
  ]


def _slope_claims(result: Result) -> list[Claim]:
  """Of each direction: signals and gradients of a network share its kernels."""
  found = []
  slopes = result["config"]["slopes"]
  for direction, equation in (("forward", "Eq. 10"), ("backward", "Eq. 14")):
    shares = np.asarray(result["slopes"][direction]).mean(-1)
    for a, values in zip(slopes, shares, strict=True):
      source = f"{HE}, {equation if a == 0 else 'Eq. 15'}"
      name = f"slope {a:g}: share kept by a layer, "
      numbers = mean_and_two_errors(values)
      claim = Claim(source, name + direction, (1 + a * a) / 2, *numbers)
      other = f"{name}forward" if direction == "backward" else ""
      found.append(claim._replace(shares=other))
  return found


def _fan_claims(result: Result) -> list[Claim]:
  laws = result["theory"]["fans"]
  return [
    claim
    for mode, seen in result["fans"].items()
    for claim in claims_at_ends(
      mode,
      f"{HE}, §2.2" if mode != "fan_avg" else "product of fans",
      seen,
      laws[mode],
    )
  ]


def log2_shrinkage(filters: Any, std: float = 0.01) -> float:
  """Of the gradient's deviation: Π √(n̂/2)·std, n̂ = 9·filters, but of conv1.

  >>> filters = (64,) * 2 + (128,) * 2 + (256,) * 2 + (512,) * 4
  >>> round(2 ** -log2_shrinkage(filters))
  16729
  """
  fans = 9 * np.array(filters[1:], np.float64)
  return float(np.log2(std * np.sqrt(fans / 2)).sum())


def _shrinkage_claim(result: Result) -> Claim:
  """He et al. print 1.7·10⁴, of which we take what was rounded away, 16729."""
  filters = result["config"]["filters"]
  mean, error = mean_and_two_errors(result["shrunk"])
  name = f"weights of 0.01: log₂ of a gradient, conv{len(filters)} to conv2"
  ours, relative = float(np.log2(mean)) / 2, float(error / mean / np.log(4))
  source, law = f"{HE}, §2.2: 1/(1.7·10⁴)", log2_shrinkage(filters)
  return Claim(source, name, law, ours, relative)


def fall(loss: np.ndarray) -> float:
  """Of the mean loss of networks, below that of a guess among ten."""
  return float(np.log(10) - loss[:, -1].mean())


def _training_claims(result: Result) -> list[Claim]:
  """Of what one learns, as a fall of the loss, the other learns nothing."""
  pairs = [
    (f"{HE}, Fig. 3 (stalls)", f"{kind}, {depth} layers: Xavier's", *losses)
    for kind, depths in result["courses"].items()
    for depth, inits in depths.items()
    for losses in [(inits["Xavier"]["loss"], inits["He"]["loss"])]
    if int(depth) >= 30  # less deep, it may learn
  ]
  if result["config"]["turns"] >= 30:
    name, turns = "narrow and wide in turn: the average's", result["turns"]
    pairs += [
      (f"{HE}, §2.2", f"{name} of {mode}", turns["fan_avg"], turns[mode])
      for mode in ("fan_in", "fan_out")
    ]
  found = [
    Claim(
      source, f"{name} fall of the loss", 0.0, fall(slow) / fall(quick), 0.0
    )
    for source, name, slow, quick in pairs
  ]
  why = "a tenth of it passes for nothing"
  return [claim.allowing(0.1, why) for claim in found]


def tables(result: Result) -> list[Any]:
  """By slope, by fan, and after training."""
  return [_slope_table(result), _fan_table(result), _course_table(result)]


def _slope_table(result: Result) -> Any:
  title = "leaky ReLU, Var W = 1/n: kept by a layer"
  headings = "slope a", "(1 + a²)/2", "forward", "backward", "gain", "ours"
  table = new_table(title, *headings)
  (forward, df), (backward, db) = (
    kept(result, direction) for direction in ("forward", "backward")
  )
  for i, a in enumerate(result["config"]["slopes"]):
    table.add_row(
      f"{a:g}",
      f"{(1 + a * a) / 2:.4f}",
      f"{forward[i]:.4f} ± {2 * df[i]:.4f}",
      f"{backward[i]:.4f} ± {2 * db[i]:.4f}",
      f"{np.sqrt(2 / (1 + a * a)):.4f}",
      f"{forward[i] ** -0.5:.4f}",
    )
  return table


def _fan_table(result: Result) -> Any:
  n, turns = result["widths"], result["config"]["turns"]
  title = f"ReLU, widths {n[0]}, {n[1]}, ..., {n[-1]}: log₂ at the end (theory)"
  headings = "2/Var W", "signal", "gradient", f"loss, {2 * turns} layers"
  table = new_table(title, *headings, left=4)
  for mode, seen in result["fans"].items():
    cells = cells_at_ends(seen, result["theory"]["fans"][mode])
    mean, error = mean_and_two_errors(result["turns"][mode][:, -1])
    table.add_row(MODE_NAMES[mode], *cells, f"{mean:.3f} ± {error:.3f}")
  return table


def _course_table(result: Result) -> Any:
  title = "training loss (nats), test accuracy at the end"
  headings = "network", "He", "Xavier"
  table = new_table(title, *headings, left=3)
  for kind, depths in result["courses"].items():
    for depth, inits in depths.items():
      cells = []
      for course in inits.values():
        loss, error = mean_and_error(course["loss"][:, -1])
        right = course["test_accuracy"][:, -1].mean()
        told = "diverged" if np.isnan(right) else f"{right:.1%}"
        cells.append(f"{loss:.3f} ± {2 * error:.3f}, {told}")
      table.add_row(f"{kind}, {depth} layers", *cells)
  return table


def figure(result: Result) -> Any:
  """Above: what layers keep, and fans; below: He's weights or Xavier's."""
  config = result["config"]
  panels = [
    (inits, f"{kind}, {depth} layers")
    for kind, depths in result["courses"].items()
    for depth, inits in depths.items()
  ]
  drawn, axes = plots.grid(2, max(4, len(panels)))
  _draw_kept(axes[0, 0], result)
  laws, n = result["theory"]["fans"], result["widths"]
  for axis, direction in zip(axes[0, 1:3], fan_networks.ENDS, strict=True):
    fan_networks.draw_by_layer(axis, result["fans"], laws, direction)
    axis.set_title(f"ReLU, widths {n[0]}, {n[1]}, {n[0]}, ...; Var W = 2/fan")
  axes[0, 1].legend(fontsize=7)
  _draw_turns(axes[0, 3], result)
  for axis, panel in zip(axes[1], panels, strict=False):
    _draw_courses(axis, config["steps"], *panel)
  for axis in (*axes[0, 4:], *axes[1, len(panels) :]):
    axis.set_visible(False)
  plots.setting(
    drawn,
    f"{config['networks']} random networks of {config['layers']} layers; "
    f"{config['seeds']} trained ones, {config['width']} units or "
    f"{config['channels']} channels; two standard errors",
  )
  return drawn


def _draw_turns(axis: Any, result: Result) -> None:
  """How deep networks learn whose layers are narrow and wide in turn."""
  config = result["config"]
  turns = {
    MODE_NAMES[mode]: {"loss": result["turns"][mode]} for mode in result["fans"]
  }
  n = config["trained_narrow"], config["trained_wide"]
  title = f"mlp, {2 * config['turns']} layers, {n[0]} and {n[1]} in turn"
  _draw_courses(axis, config["steps"], turns, title)


def _draw_kept(axis: Any, result: Result) -> None:
  slopes = np.array(result["config"]["slopes"])
  for direction, color in zip(fan_networks.ENDS, plots.COLORS, strict=False):
    values = np.asarray(result["slopes"][direction]).mean(-1)
    plots.points(axis, slopes, values.T, color, direction)
  dense = np.linspace(slopes[0], slopes[-1], 50)
  label = "(1 + a²)/2, theory; gain² is its inverse"
  law = (1 + dense**2) / 2
  plots.law(axis, dense, law, label=label)
  axis.set_title("leaky ReLU, Var W = 1/n")
  axis.set_xlabel("slope a below 0")
  axis.set_ylabel("second moment kept by a layer")
  axis.legend(fontsize=8)


def _draw_courses(axis: Any, updates: int, inits: Any, title: str) -> None:
  for (init, course), color in plots.colored(inits.items()):
    losses = course["loss"]
    steps = np.linspace(0, updates, losses.shape[1])
    plots.line_with_band(axis, steps, losses, color, init)
  axis.axhline(np.log(10), color="gray", linestyle=":", label="ln 10: chance")
  axis.set_ylim(0, 3)
  plots.label(axis, title, "updates", "training loss (nats)")
  axis.legend(fontsize=8)
