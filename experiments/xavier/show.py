"""Pyramids, squashing, and the histograms of Glorot and Bengio."""

from typing import Any

import numpy as np

from experiments.common import plots
from experiments.runtime.experiment import Result
from experiments.xavier.claims import spread, spread_law
from experiments.xavier.theory import SHOWN

MODES = {
  "fan_in": "1/n_in",
  "fan_out": "1/n_out",
  "fan_avg": "2/(n_in + n_out): Xavier",
  "fan_geo_avg": "1/√(n_in·n_out)",
}


def figure(result: Result) -> Any:
  """Rows: pyramids; what squashing does; histograms by activation."""
  drawn, axes = plots.grid(5, 4)
  for column, (shape, direction) in enumerate(
    (shape, direction)
    for shape in result["pyramids"]
    for direction in ("forward", "backward")
  ):
    _draw_pyramid(axes[0, column], result, shape, direction)
  axes[0, 0].legend(fontsize=7)
  _draw_layers(axes[1, 0], result, "log2_gradient")
  _draw_layers(axes[1, 1], result, "correlation")
  _draw_kernels(axes[1, 2], result)
  _draw_spread(axes[1, 3], result)
  axes[1, 0].legend(fontsize=7)
  for row, activation in zip(axes[2:], SHOWN, strict=True):
    for column, (kind, init) in enumerate(
      (kind, init)
      for kind in ("values", "sizes")
      for init in result["squashed"][activation]
    ):
      _draw_histogram(row[column], result, activation, init, kind)
  axes[2, 0].legend(fontsize=7)
  return drawn


def _draw_pyramid(
  axis: Any, result: Result, shape: str, direction: str
) -> None:
  for mode, color in plots.colored(MODES):
    found = result["pyramids"][shape][mode]["normal"][direction]
    mean, error = plots.mean_and_error(found)
    layers = np.arange(len(mean))
    axis.errorbar(
      layers, mean, 2 * error, fmt="o", markersize=4, color=color,
      label=MODES[mode],
    )  # fmt: skip
    law = result["theory"]["pyramids"][shape][mode][direction]
    axis.plot(layers, law, color=color, **plots.THEORY)
  axis.plot([], [], color="gray", label="theory", **plots.THEORY)
  axis.set_yscale("log", base=2)
  widths = result["widths"][shape]
  what = "signal" if direction == "forward" else "gradient"
  axis.set_title(f"{widths[0]} → {widths[-1]} units, linear: {what}")
  axis.set_xlabel("layer")
  axis.set_ylabel(f"second moment of the {what}")


def _draw_layers(axis: Any, result: Result, name: str) -> None:
  """Measured and predicted, of all activations with normalized weights."""
  scale = plots.LOG10_2 if name.startswith("log2") else 1.0
  for (activation, inits), color in plots.colored(result["squashed"].items()):
    mean, error = plots.mean_and_error(scale * inits["normalized"][name])
    layers = np.arange(1, len(mean) + 1)
    axis.errorbar(
      layers, mean, 2 * error, fmt="o", markersize=4, color=color,
      label=activation,
    )  # fmt: skip
    law = result["theory"]["squashed"][activation]["normalized"][name]
    axis.plot(layers, scale * np.array(law), color=color, **plots.THEORY)
  axis.plot([], [], color="gray", label="theory", **plots.THEORY)
  axis.set_xlabel("hidden layer")
  if name == "correlation":
    axis.set_title("normalized: two images grow alike")
    axis.set_ylabel("E[h_a·h_b]/E[h²]")
  else:
    axis.set_title("normalized: gradients of signals")
    axis.set_ylabel("log₁₀ E[g²], over last")


def _draw_kernels(axis: Any, result: Result) -> None:
  """Standard weights: both factors decay, their product does not."""
  found = result["squashed"]["tanh"]["standard"]
  law = result["theory"]["squashed"]["tanh"]["standard"]
  rows = {
    "signals h": [np.log2(x["second_moment"]) for x in (found, law)],
    "gradients of signals": [x["log2_gradient"] for x in (found, law)],
    "gradients of kernels": [x["log2_kernel_gradient"] for x in (found, law)],
  }
  for (label, (values, curve)), color in plots.colored(rows.items()):
    mean, error = plots.mean_and_error(plots.LOG10_2 * values)
    layers = np.arange(1, len(mean) + 1)
    axis.errorbar(
      layers, mean, 2 * error, fmt="o", markersize=4, color=color, label=label
    )
    law = plots.LOG10_2 * np.array(curve)
    axis.plot(layers, law, color=color, **plots.THEORY)
  axis.set_title("tanh, standard (gradients: over last)")
  axis.set_xlabel("hidden layer")
  axis.set_ylabel("log₁₀ second moment")
  axis.legend(fontsize=7)


def _draw_spread(axis: Any, result: Result) -> None:
  """Over pyramids: the law of one input's signal, by distribution."""
  for position, (shape, modes) in enumerate(result["pyramids"].items()):
    for offset, (distribution, found) in enumerate(modes["fan_avg"].items()):
      value, error = spread(found)
      axis.errorbar(
        [position + 0.2 * (offset - 0.5)], [value], [2 * error],
        fmt="os"[offset], color=plots.COLORS[offset],
        label=None if position else f"{distribution} weights",
      )  # fmt: skip
    law = spread_law(result["widths"][shape])
    axis.plot(
      [position - 0.3, position + 0.3], [law, law], color="black",
      label=None if position else "theory, normal", **plots.THEORY,
    )  # fmt: skip
  axis.set_xticks([0, 1], list(result["pyramids"]))
  axis.set_xlim(-0.5, 1.5)
  axis.set_ylim(bottom=0)
  axis.set_title("Xavier pyramids: normal or uniform?")
  axis.set_ylabel("deviation over nets of log |h|²")
  axis.legend(fontsize=7, loc="lower left")


def _draw_histogram(
  axis: Any, result: Result, activation: str, init: str, kind: str
) -> None:
  import matplotlib

  colors = matplotlib.colormaps["cividis"]
  bins = np.asarray(result["bins"][kind])
  shares = result["squashed"][activation][init][kind]
  depth = len(shares)
  for layer, share in enumerate(shares):
    axis.stairs(
      share / np.diff(bins), bins, color=colors(0.9 * layer / (depth - 1)),
      label=f"layer {layer + 1}",
    )  # fmt: skip
  what = "activations" if kind == "values" else "gradients"
  axis.set_title(f"{activation}, {init}: {what}")
  axis.set_xlabel("activation" if kind == "values" else "log₁₀ |gradient|")
  axis.set_ylabel("density")
