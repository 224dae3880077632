"""Signals, gradients and learning, with and without normalization."""

from typing import Any

import numpy as np

from experiments.common import plots
from experiments.normalization.claims import NAMES
from experiments.normalization.theory import gradient_growth, measured_growth
from experiments.runtime.experiment import Result

COLORS = dict(plots.colored(NAMES))
POINTS = {
  "batch": {"fmt": "o", "markersize": 8, "markerfacecolor": "none"},
  "layer": {"fmt": "s", "markersize": 4},
  "none": {"fmt": "^", "markersize": 5},
  "linear": {"fmt": "v", "markersize": 6, "markerfacecolor": "none"},
}
"""Open and closed, so that two at the same place are both seen"""


def figure(result: Result) -> Any:
  """Above: at initialization; below: training."""
  depths = result["config"]["depths"]
  drawn, axes = plots.grid(2, max(4, 1 + len(depths)))
  _draw_forward(axes[0, 0], result)
  _draw_kernel_gradient(axes[0, 1], result)
  _draw_layers(axes[0, 2], result)
  _draw_growth(axes[0, 3], result)
  _draw_accuracy(axes[1, 0], result)
  config = result["config"]
  plots.setting(
    drawn,
    f"untrained: {config['draws']} networks, gradients of "
    f"{config['gradient_depth']} layers of {config['gradient_width']} units; "
    f"trained: {config['seeds']} of width {config['width']}, SGD at rate "
    f"{config['rate']:g}; two standard errors",
  )
  for axis, depth in zip(axes[1, 1:], depths, strict=False):
    _draw_courses(axis, result, depth)
  for axis in (*axes[0, 4:], *axes[1, 1 + len(depths) :]):
    axis.set_visible(False)
  return drawn


def _draw_forward(axis: Any, result: Result) -> None:
  scales = result["config"]["scales"]
  for kind in result["config"]["kinds"]:
    values = plots.LOG10_2 * result["scales"][kind]["forward"].T
    _draw_points(axis, scales, values, kind)
    law = plots.LOG10_2 * result["theory"]["forward"][kind]
    plots.law(axis, scales, law)
  plots.law(axis, [], [], label="theory")
  axis.set_xscale("log")
  axis.set_ylim(-12, 12)
  axis.set_xlabel("σ_w over He's")
  axis.set_ylabel("log₁₀ second moment")
  depth = result["config"]["depths"][0]
  axis.set_title(f"activations of layer {depth}, untrained")
  axis.legend(loc="lower right")


def _draw_points(axis: Any, x: Any, values: np.ndarray, kind: str) -> None:
  """Mean over seeds, the first axis, and two standard errors."""
  mean, error = plots.mean_and_error(values)
  axis.errorbar(
    x, mean, 2 * error, color=COLORS[kind], label=NAMES[kind], **POINTS[kind]
  )


def _draw_kernel_gradient(axis: Any, result: Result) -> None:
  config = result["config"]
  scales = np.array(config["scales"])
  middle = config["scales"].index(1.0)
  for kind in config["kinds"]:
    values = plots.LOG10_2 * result["scales"][kind]["kernel_gradient"].T / 2
    _draw_points(axis, scales, values - values[:, [middle]], kind)
  slopes = {-1: "theory: σ_w^(-1)"}
  if "none" in config["kinds"]:
    slopes[config["depths"][0] - 1] = ""
  for slope, label in slopes.items():
    plots.law(axis, scales, slope * np.log10(scales), label=label or None)
  axis.set_xscale("log")
  axis.set_ylim(-6, 9)
  axis.set_xlabel("σ_w over He's")
  axis.set_ylabel("log₁₀ root mean square, over He's")
  axis.set_title("gradients of kernels, untrained")
  axis.legend(loc="upper left")


def _draw_layers(axis: Any, result: Result) -> None:
  batch = str(result["config"]["batches"][-1])
  for kind in result["config"]["kinds"]:
    values = result["gradients"][kind][batch]
    layers = np.arange(1, values.shape[1] + 1)
    values = plots.LOG10_2 * (values - values[:, [-1]])
    plots.line_with_band(axis, layers, values, COLORS[kind], NAMES[kind])
    growth = result["theory"]["growth"][kind][batch]
    anchor = 8 if len(layers) > 16 else 0
    law = np.log10(growth) * (layers[-1 - anchor] - layers)
    law = law + values.mean(0)[-1 - anchor]
    plots.law(axis, layers, law)
  axis.set_xlabel("layer")
  axis.set_ylabel("log₁₀ squared gradient, over last")
  axis.set_title(f"gradients by layer, batch {batch}")


def _draw_growth(axis: Any, result: Result) -> None:
  batches = np.array(result["config"]["batches"])
  dense = np.unique(np.geomspace(batches.min(), batches.max(), 12).astype(int))
  for kind, found in result["gradients"].items():
    values = np.array([measured_growth(v) for v in found.values()])
    _draw_points(axis, [int(batch) for batch in found], values.T, kind)
    law = [gradient_growth(kind, int(b)) for b in dense]
    plots.law(axis, dense, law)
  if "batch" in result["config"]["kinds"]:
    limit = result["theory"]["limit"]["batch"]
    axis.axhline(limit, color="gray", linestyle=":", label="π/(π - 1)")
  axis.set_xscale("log", base=2)
  axis.set_ylim(0.9, 2.4)  # room for the legend
  axis.set_xlabel("batch (images)")
  axis.set_ylabel("factor per layer")
  axis.set_title("growth of squared gradients")
  axis.legend(fontsize=7)


def _draw_accuracy(axis: Any, result: Result) -> None:
  config = result["config"]
  depth = config["depths"][0]
  for kind in config["kinds"]:
    found = result["courses"][kind][str(depth)]["test_accuracy"][..., -1]
    plots.line_with_band(
      axis, config["scales"], found.T, COLORS[kind], NAMES[kind], plots.DIVERGED
    )
  axis.set_xscale("log")
  axis.set_ylim(0, 1.3)  # room for the legend
  axis.set_yticks(np.linspace(0, 1, 6))
  axis.set_xlabel("σ_w over He's")
  axis.set_ylabel("test accuracy, trained")
  axis.set_title(f"{depth} layers, after {config['steps']} updates")
  axis.legend(fontsize=7, loc="upper right")


def _draw_courses(axis: Any, result: Result, depth: int) -> None:
  config = result["config"]
  for kind in config["kinds"]:
    found = result["courses"][kind][str(depth)]["test_accuracy"]
    row = config["scales"].index(1.0) if len(found) > 1 else 0
    steps = np.linspace(0, config["steps"], found.shape[-1])
    plots.line_with_band(
      axis, steps, found[row], COLORS[kind], NAMES[kind], plots.DIVERGED
    )
  axis.set_ylim(0, 1)
  plots.label(axis, f"{depth} layers, He's σ_w", "updates", "test accuracy")
