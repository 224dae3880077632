"""Tables and figure of `vanishing`."""

import math
from typing import Any

import numpy as np

from experiments.common import plots
from experiments.common.tables import new_table
from experiments.runtime.experiment import Result
from experiments.vanishing.networks import ISOMETRY

NAMES = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "ReLU"}


def tables(result: Result) -> list[Any]:
  """Underflow, predicted and observed; and what was learnt."""
  return [_underflow_table(result), _learning_table(result)]


def _underflow_table(result: Result) -> Any:
  title = "layers below the output where the whole gradient is exactly 0"
  theory = "least positive", "from √χ₁", "layer by layer", "±"
  table = new_table(title, "activation", "dtype", *theory, "observed")
  cotangents = "unit-normal cotangents at the output"
  table.caption = f"of {result['depth'] - 1}; {cotangents}"
  for name, title in NAMES.items():
    for dtype, numbers in result["underflow"].items():
      kind = numbers["kinds"][name]
      predicted = kind["predicted"]
      flushed = "" if numbers["subnormals"] else ", rest flushed"
      least = f"2^{math.log2(numbers['least']):.0f}{flushed}"
      layers = [
        predicted["by_chi_1"],
        predicted["by_trajectory"],
        1 + 2 * predicted["std"],
        float(np.mean(kind["observed"])),
      ]
      cells = (_layer(value, result["depth"]) for value in layers)
      table.add_row(title, dtype, least, *cells)
  return table


def _layer(value: float, depth: int) -> str:
  if math.isnan(value):
    return ""
  return "never" if value >= depth else f"{value:.1f}"


def _learning_table(result: Result) -> Any:
  title = f"{result['train_depth']} layers trained on digits, best rate"
  learnt = "final loss", "train accuracy", "test accuracy"
  table = new_table(title, "activation", "√χ₁", "rate", *learnt)
  for name, course in result["courses"].items():
    cells = []
    for key in ("loss", "accuracy", "test_accuracy"):
      mean, error = plots.mean_and_error(course[key][:, -1])
      form = "{:.3f} ± {:.3f}" if key == "loss" else "{:.1%} ± {:.1%}"
      cells.append(form.format(mean, 2 * error))
    root = f"{result['kinds'][name]['chi_1'] ** 0.5:.3f}"
    table.add_row(NAMES[name], root, f"{course['rate']:g}", *cells)
  return table


def figure(result: Result) -> Any:
  """Jacobians, underflow, saturation; then loss, accuracy, gradients."""
  drawn, axes = plots.grid(3, 3)
  _draw_spectrum(axes[0, 0], result)
  _draw_products(axes[0, 1], result)
  _draw_underflow(axes[0, 2], result)
  _draw_isometry(axes[1, 0], result)
  _draw_courses(axes[1, 1], result, "loss", "training loss (nats)")
  _draw_courses(axes[1, 2], result, "test_accuracy", "test accuracy")
  plots.level(axes[1, 1], math.log(10), "chance, log 10")
  plots.level(axes[1, 2], 0.1, "chance")
  axes[1, 1].legend()
  _draw_saturation(axes[2, 0], result)
  _draw_let_through(axes[2, 1], result)
  _draw_saturated(axes[2, 2], result)
  plots.setting(
    drawn,
    f"random networks: {result['depth']} layers of width {result['width']}; "
    f"{result['seeds']} networks of each kind; trained: "
    f"{result['train_depth']} layers, saturated: 3 layers, on digits",
  )
  return drawn


def _k(result: Result) -> np.ndarray:
  return np.arange(1, result["depth"])


def _draw_spectrum(axis: Any, result: Result) -> None:
  """Of sigmoid: how unequally the product of k Jacobians shrinks."""
  kind = result["kinds"]["sigmoid"]
  spectrum, k = kind["spectrum"], _k(result)
  stop = min(60, len(k))
  lines = (
    ("largest", spectrum["largest"]),
    ("root mean square", spectrum["mean"]),
    ("upper quartile", spectrum["quartiles"][..., 0]),
    ("median", spectrum["quartiles"][..., 1]),
    ("lower quartile", spectrum["quartiles"][..., 2]),
  )
  for (name, values), color in plots.colored(lines):
    plots.line_with_band(axis, k[:stop], values[:, :stop], color, name)
    _draw_end(axis, k[:stop], plots.of_finite(values[:, :stop])[0], color)
  axis.plot([], [], "x", color="gray", label="below float32's resolution")
  law = k[:stop] * math.log2(kind["chi_1"]) / 2
  plots.law(axis, k[:stop], law, "√(χ₁^k), theory")
  axis.set_title("spectrum of the product, sigmoid")
  axis.set_xlabel("k, number of Jacobians multiplied")
  axis.set_ylabel("log₂ of singular values")
  axis.legend(fontsize=8)


def _draw_end(axis: Any, x: np.ndarray, mean: np.ndarray, color: str) -> None:
  """A cross where a line stops: smaller singular values are rounding."""
  known = np.flatnonzero(np.isfinite(mean))
  if known.size and known[-1] < len(x) - 1:
    axis.plot(x[known[-1]], mean[known[-1]], "x", color=color)


def _draw_isometry(axis: Any, result: Result) -> None:
  found = result["isometry"]
  layers = np.arange(1, found["measured"].shape[-1] + 1)
  for i, ((name, slope), color) in enumerate(plots.colored(ISOMETRY.items())):
    style = {"fmt": "o", "ms": 4, "color": color}
    values = found["measured"][i], found["error"][i]
    axis.errorbar(layers, *values, label=f"{name}: {slope:g}·L", **style)
    plots.law(axis, layers, found["theory"][i], color=color)
  plots.law(axis, [], [], label="theory, finite n")
  axis.set_title(f"spread of the spectrum, width {found['width']}")
  axis.set_xlabel("L, number of Jacobians multiplied")
  axis.set_ylabel("relative variance of squared singular values")
  axis.legend(fontsize=8)


def _draw_products(axis: Any, result: Result) -> None:
  k = _k(result)
  for (name, kind), color in plots.colored(result["kinds"].items()):
    values = kind["spectrum"]["mean"]
    plots.line_with_band(axis, k, values, color, NAMES[name])
    theory = kind["log2_size_theory"][1:]
    plots.law(axis, k, theory)
  plots.law(axis, [], [], label="theory, each layer")
  axis.set_title("product of Jacobians by activation")
  axis.set_xlabel("k, number of Jacobians multiplied")
  axis.set_ylabel("log₂ of singular values (rms)")
  axis.legend(fontsize=8)


def _draw_underflow(axis: Any, result: Result) -> None:
  """Root mean square gradient of sigmoid nets, until it is 0."""
  k = np.arange(result["depth"])
  kind = result["kinds"]["sigmoid"]
  markers = (("o", 8), ("s", 4), ("^", 4))  # two may be at the same place
  for (dtype, numbers), color, (marker, size) in zip(
    result["underflow"].items(), plots.COLORS, markers, strict=False
  ):
    found = numbers["kinds"]["sigmoid"]
    mean = np.where(np.isfinite(found["log2_size"]), found["log2_size"], np.nan)
    alive = np.isfinite(mean).all(0)
    style = {"color": color, "markersize": size, "fillstyle": "none"}
    sizes = mean.mean(0)[alive]
    axis.plot(k[alive], sizes, marker, markevery=2, label=dtype, **style)
    layer, seen = found["predicted"]["by_trajectory"], found["observed"]
    if math.isfinite(layer):
      axis.axvline(layer, color=color, **plots.THEORY)
      axis.plot(seen, np.full(len(seen), 4), marker, **style)
  theory = kind["log2_size_theory"]
  shown = theory > -160
  plots.law(axis, k[shown], theory[shown], "size, by theory")
  zero = "where all is 0"
  plots.law(axis, [], [], f"{zero}, by theory", "gray")
  top = {"color": "gray", "fillstyle": "none"}
  axis.plot([], [], "o", label=f"on top: {zero}, measured", **top)
  axis.set_ylim(-160, 12)
  axis.set_xlim(0, min(result["depth"], 80))
  axis.set_title("underflow of the gradient, sigmoid")
  axis.set_xlabel("layers below the output")
  axis.set_ylabel("log₂ of gradient (rms)")
  axis.legend(fontsize=8, loc="lower left")


def _draw_saturation(axis: Any, result: Result) -> None:
  """Sigmoid; tanh's are alike at four times the variance."""
  for (name, seen), color in plots.colored(result["saturation"].items()):
    if seen["activation"] != "sigmoid":
      continue
    bins = len(seen["theory"])
    edges = np.linspace(0, 1, bins + 1)
    style = {"color": color, "fill": True, "alpha": 0.35, "label": name}
    axis.stairs(seen["measured"].mean(0), edges, **style)
    axis.stairs(seen["theory"], edges, color=color, **plots.THEORY)
  plots.law(axis, [], [], label="theory, N(0, q*)")
  axis.set_yscale("log")
  axis.set_ylim(3e-3, 1.5)
  axis.set_title("saturation at birth: slopes of units")
  axis.set_xlabel("σ'(z) over its greatest value ¼")
  axis.set_ylabel("share of units in each twentieth")
  axis.legend(fontsize=8)


def _draw_let_through(axis: Any, result: Result) -> None:
  """What is lost in one layer, by slopes alone."""
  names = list(result["saturation"])
  for i, (name, color) in enumerate(plots.colored(names)):
    seen = result["saturation"][name]
    mean, error = plots.mean_and_two_errors(seen["let_through"])
    axis.bar(i, mean, 0.7, yerr=error, color=color)
    if seen["q"] > 1e-3:  # else 12 layers are too few to come near it
      axis.plot(i, seen["let_through_theory"], "k_", markersize=22)
  axis.plot([], [], "k_", markersize=12, label="theory, E[φ'²]/φ'(0)²")
  labels = [name.replace(", σ_w² = ", "\n") for name in names]
  axis.set_xticks(range(len(names)), labels, fontsize=8)
  axis.set_xlabel("activation, σ_w²")
  axis.set_ylim(0, 1.05)
  axis.set_title("what slopes let through of a gradient, a layer")
  axis.set_ylabel("mean square of φ'(z)/φ'(0)")
  axis.legend(fontsize=8)


def _draw_saturated(axis: Any, result: Result) -> None:
  """While networks learn; at the right what they have learnt."""
  for (name, seen), color in plots.colored(result["saturation"].items()):
    accuracy = seen["test_accuracy"][:, -1].mean()
    label = f"{name}: test {accuracy:.0%}"
    plots.line_with_band(axis, result["steps"], seen["saturated"], color, label)
  axis.set_ylim(-0.03, 1.6)
  axis.set_title("saturation while a network learns")
  axis.set_xlabel("updates")
  axis.set_ylabel("share with φ'/φ'(0) < 0.1")
  axis.legend(fontsize=6, ncols=2, loc="upper center")


def _draw_courses(axis: Any, result: Result, key: str, label: str) -> None:
  for (name, course), color in plots.colored(result["courses"].items()):
    told = f"{NAMES[name]}, rate {course['rate']:g}"
    plots.line_with_band(axis, result["steps"], course[key], color, told)
  plots.label(axis, f"{result['train_depth']} layers, digits", "updates", label)
