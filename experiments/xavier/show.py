"""Pyramids, squashing, and gradients as Glorot and Bengio draw them."""

from typing import Any

import numpy as np

from experiments.common import fan_networks, plots
from experiments.runtime.experiment import Result


def figure(result: Result) -> Any:
  """Above: fans, and what squashing does; below: tanh, standard or not."""
  drawn, axes = plots.grid(2, 4)
  for axis, direction in zip(axes[0], fan_networks.ENDS, strict=False):
    _draw_pyramid(axis, result, direction)
  _draw_layers(axes[0, 2], result, "log2_gradient")
  _draw_layers(axes[0, 3], result, "correlation")
  _draw_kernels(axes[1, 0], result)
  _draw_singular_values(axes[1, 1], result)
  for axis, init in zip(axes[1, 2:], result["singular_values"], strict=True):
    _draw_histogram(axis, result, init)
  for axis in (axes[0, 0], axes[0, 2], axes[1, 2]):
    axis.legend(fontsize=7)
  config = result["config"]
  plots.setting(
    drawn,
    f"{config['pyramids']} pyramids; {config['seeds']} networks of "
    f"{config['depth']} hidden layers of {config['width']} units; bars: two "
    "standard errors",
  )
  return drawn


def _draw_pyramid(axis: Any, result: Result, direction: str) -> None:
  modes = result["pyramids"]["narrowing"]
  found = {mode: seen["normal"] for mode, seen in modes.items()}
  laws = result["theory"]["pyramids"]["narrowing"]
  fan_networks.draw_by_layer(axis, found, laws, direction)
  widths = result["widths"]["narrowing"]
  axis.set_title(f"{widths[0]} → {widths[-1]} units, linear, Var W = 1/fan")


def _draw_layers(axis: Any, result: Result, name: str) -> None:
  """Measured and predicted, of all activations with normalized weights."""
  found = {n: x["normalized"][name] for n, x in result["squashed"].items()}
  laws = result["theory"]["squashed"]
  curves = {n: laws[n]["normalized"][name] for n in found}
  if name == "correlation":
    _draw_curves(axis, found, curves, 1.0)
    axis.set_title("normalized: two images grow alike")
    axis.set_ylabel("E[h_a·h_b]/E[h²]")
  else:
    _draw_curves(axis, found, curves, plots.LOG10_2)
    axis.set_title("normalized: gradients of signals")
    axis.set_ylabel("log₁₀ E[g²], over last")


def _draw_curves(axis: Any, found: Any, laws: Any, scale: float) -> None:
  for (label, values), color in plots.colored(found.items()):
    layers = np.arange(1, values.shape[1] + 1)
    plots.points(axis, layers, scale * values, color, label)
    law = scale * np.array(laws[label])
    plots.law(axis, layers, law, color=color)
  plots.law(axis, [], [], label="theory", color="gray")
  axis.set_xlabel("hidden layer")


def _draw_kernels(axis: Any, result: Result) -> None:
  """Standard weights: both factors decay, their product does not."""
  found, laws = (
    {
      "signals h": np.log2(seen["second_moment"]),
      "gradients of signals": seen["log2_gradient"],
      "gradients of kernels": seen["log2_kernel_gradient"],
    }
    for seen in (
      result["squashed"]["tanh"]["standard"],
      result["theory"]["squashed"]["tanh"]["standard"],
    )
  )
  _draw_curves(axis, found, laws, plots.LOG10_2)
  axis.set_title("tanh, standard (gradients: over last)")
  axis.set_ylabel("log₁₀ second moment")
  axis.legend(fontsize=7)


def _draw_singular_values(axis: Any, result: Result) -> None:
  for (init, values), color in plots.colored(result["singular_values"].items()):
    label = f"{init}: mean {values.mean():.2f}"
    style = {"color": color, "alpha": 0.5, "label": label}
    axis.hist(values.ravel(), 60, density=True, **style)
    axis.axvline(values.mean(), color=color)
  axis.set_title("tanh: Jacobians of single layers")
  axis.set_xlabel("singular value")
  axis.set_ylabel("density")
  axis.legend(fontsize=7)


def _draw_histogram(axis: Any, result: Result, init: str) -> None:
  import matplotlib

  colors = matplotlib.colormaps["cividis"]
  bins = np.asarray(result["bins"])
  shares = result["squashed"]["tanh"][init]["sizes"]
  for layer, share in enumerate(shares):
    color, label = colors(0.9 * layer / len(shares)), f"layer {layer + 1}"
    axis.stairs(share / np.diff(bins), bins, color=color, label=label)
  axis.set_title(f"tanh, {init}: gradients by layer")
  axis.set_xlabel("log₁₀ |gradient|")
  axis.set_ylabel("density")
  axis.set_xlim(-9, -2)
