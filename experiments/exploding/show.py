"""Tables and figure of `exploding`."""

import math
from typing import Any

import numpy as np

from experiments.common import plots
from experiments.common.tables import new_table
from experiments.runtime.experiment import Result


def tables(result: Result) -> list[Any]:
  """Growth by weights and depth; descent by rate; clipping by cause."""
  return [_growth(result), _descent(result), _clipping(result)]


def _growth(result: Result) -> Any:
  table = new_table(
    "log₂ of the gradient a layer, ReLU", "σ_w²", "χ₁", "½ log₂ χ₁", "measured"
  )
  for variance, chi_1, size in zip(
    result["variances"], result["chi_1"], result["log2_size"], strict=True
  ):
    mean, error = plots.mean_and_error(
      (size[:, -1] - size[:, 0]) / (size.shape[-1] - 1)
    )
    law, seen = 0.5 * math.log2(chi_1), f"{mean:+.3f} ± {2 * error:.3f}"
    table.add_row(f"{variance:g}", f"{chi_1:.3f}", f"{law:+.3f}", seen)
  return table


def _descent(result: Result) -> Any:
  table = new_table(
    "gradient descent: greatest and final loss over the first",
    "rate over 2/λ_max",
  )
  for name in result["descents"]:
    for title in ("greatest", "final", "λ_max"):
      table.add_column(f"{name}: {title}", justify="right")
  for index, factor in enumerate(result["factors"]):
    cells = []
    for found in result["descents"].values():
      loss = found["loss"][index]
      cells += [
        _number(np.median(np.max(loss, -1) / loss[:, 0])),
        _number(np.median(loss[:, -1] / loss[:, 0])),
        f"{_number(np.median(found['start'][index]))} → "
        f"{_number(np.median(found['end'][index]))}",
      ]
    table.add_row(f"{factor:g}", *cells)
  return table


def _number(value: float) -> str:
  return f"{value:.3g}" if np.isfinite(value) else "diverged"


def _clipping(result: Result) -> Any:
  table = new_table(
    f"test accuracy after SGD, global norm at most {result['limit']:g}",
    "what is wrong",
    *result["clipping"],
    left=1,
  )
  for name, found in result["causes"].items():
    mean, error = plots.of_finite(found["test_accuracy"][..., -1].T)
    finite = found["finite"][..., -1].mean(-1)
    table.add_row(
      name,
      *(
        plots.percent(m, e) + ("" if f in (0, 1) else f" ({1 - f:.0%} NaN)")
        for m, e, f in zip(mean, error, finite, strict=True)
      ),
    )
  return table


def figure(result: Result) -> Any:
  """Weights, depth, rate; descent; clipping; how the causes learn."""
  drawn, axes = plots.grid(3, 3)
  _draw_scale(axes[0, 0], result)
  _draw_depth(axes[0, 1], result)
  _draw_rate(axes[0, 2], result)
  _draw_losses(axes[1, 0], result, "quadratic")
  _draw_losses(axes[1, 1], result, "deep")
  _draw_clipping(axes[1, 2], result)
  _draw_causes(axes[2], result)
  recurrent = result["causes"]["recurrent"]
  plots.setting(
    drawn,
    f"ReLU, width {result['width']}, {result['seeds']} networks of each kind; "
    f"SGD on digits, {result['steps'][-1]:g} updates; recurrent: tanh, width "
    f"32, σ_w² = {recurrent['sigma_w2']:g}",
  )
  return drawn


def _draw_causes(axes: Any, result: Result) -> None:
  """How networks learn with one thing wrong: weights, rate, recurrence."""
  causes = result["causes"]
  good, rate = causes["nothing wrong"], causes["rate × 10"]["rate"]
  weights = {
    f"{name}: σ_w² = {causes[name]['sigma_w2']:.2g}": (name, 0)
    for name in ("nothing wrong", "normal(0.01)", "normal(1.0)")
  }
  rates = {
    f"rate {good['rate']:g}": ("nothing wrong", 0),
    f"rate {rate:g}": ("rate × 10", 0),
    f"rate {rate:g}, clipped by norm": ("rate × 10", 2),
  }
  rows = {"unclipped": ("recurrent", 0), "clipped by norm": ("recurrent", 2)}
  _draw_courses(axes[0], result, "weights: the plain normal", weights)
  _draw_courses(axes[1], result, "rate: one misplaced decimal", rates)
  _draw_courses(axes[2], result, "recurrent network, 20 steps", rows)


def _draw_courses(
  axis: Any, result: Result, title: str, lines: dict[str, tuple[str, int]]
) -> None:
  """Test accuracy; a network that diverged counts as one that guesses."""
  for (label, (cause, clipping)), color in plots.colored(lines.items()):
    accuracy = result["causes"][cause]["test_accuracy"][clipping]
    lost = np.isnan(accuracy[:, -1]).sum()
    label += f" ({lost} of {len(accuracy)} diverge)" if lost else ""
    known = np.where(np.isnan(accuracy), 0.1, accuracy)
    axis.plot(result["steps"], known.T, color=color, linewidth=0.6, alpha=0.6)
    axis.plot(
      result["steps"], np.median(known, 0), color=color, label=label, lw=2
    )
  plots.level(axis, 0.1, "chance")
  axis.set_ylim(0, 1.45)
  plots.label(axis, title, "updates", "test accuracy (thick: median)")
  axis.legend(fontsize=8, loc="upper center")


def _draw_scale(axis: Any, result: Result) -> None:
  size = result["log2_size"]
  layers = size.shape[-1] - 1
  growth = (size[..., -1] - size[..., 0]).T
  x, color = result["variances"], plots.COLORS[0]
  plots.points(axis, x, growth, color, "measured")
  dense = np.linspace(min(result["variances"]), max(result["variances"]), 100)
  law = layers * np.log2(dense / 2) / 2
  plots.law(axis, dense, law, "theory, (σ_w²/2)^(depth/2)")
  axis.set_title(f"weights: {layers + 1} layers")
  axis.set_xlabel("weight variance σ_w² (× fan_in)")
  axis.set_ylabel("log₂ of gradient, first over last layer")
  axis.legend(fontsize=8)


def _draw_depth(axis: Any, result: Result) -> None:
  k = np.arange(result["log2_size"].shape[-1])
  chosen = [i for i, w in enumerate(result["variances"]) if w >= 2]
  for index, color in plots.colored(chosen):
    variance = result["variances"][index]
    size = result["log2_size"][index]
    plots.line_with_band(axis, k, size, color, f"σ_w² = {variance:g}")
    plots.law(axis, k, k * math.log2(variance / 2) / 2)
  plots.law(axis, [], [], label="theory, √(χ₁^k)")
  axis.set_title("depth: gradient by layer, ReLU")
  axis.set_xlabel("k, layers below the output")
  axis.set_ylabel("log₂ of gradient (rms)")
  axis.legend(fontsize=8)


def _draw_rate(axis: Any, result: Result) -> None:
  factors = np.array(result["factors"])
  for (name, found), color, marker in zip(
    result["descents"].items(), plots.COLORS[:2], ("o", "s"), strict=True
  ):
    ratio = found["loss"][..., -1] / found["loss"][..., 0]
    ratio = np.where(np.isfinite(ratio), np.clip(ratio, 1e-4, 1e4), 1e4)
    middle, low, high = np.quantile(ratio, [0.5, 0, 1], axis=1)
    label = "quadratic (linear regression)" if name == "quadratic" else name
    style = {"color": color, "linestyle": "-", "markersize": 4}
    axis.plot(factors, middle, marker, label=label, **style)
    axis.fill_between(factors, low, high, color=color, alpha=0.2, linewidth=0)
  axis.axvline(1, color="black", **plots.THEORY, label="theory, 2/λ_max")
  axis.set_xscale("log")
  axis.set_yscale("log")
  axis.set_title("rate: loss after descent (10⁴: diverged)")
  axis.set_xlabel("learning rate over 2/λ_max at the start")
  axis.set_ylabel("final loss over first")
  axis.legend(fontsize=8)


def _draw_losses(axis: Any, result: Result, name: str) -> None:
  found = result["descents"][name]
  factors = result["factors"]
  near = [i for i, f in enumerate(factors) if f in (0.5, 0.9, 1.1, 1.5, 3, 10)]
  for index, color in plots.colored(near):
    loss = found["loss"][index] / found["loss"][index][:, :1]
    loss = np.where(np.isfinite(loss) & (loss < 1e6), loss, np.nan)
    axis.plot(loss.T, color=color, linewidth=0.8)
    axis.plot([], [], color=color, label=f"{factors[index]:g}·2/λ_max")
    if name == "quadratic" and factors[index] > 1:
      _draw_speed(axis, loss[0], factors[index])
  if name == "quadratic":
    plots.law(axis, [], [], label="theory, (ηλ_max - 1)^2t")
  axis.set_yscale("log")
  axis.set_xlim(-2, 100)
  axis.set_ylim(1e-2, 1e6)
  title = "descent of a deep network: catapults"
  if name == "quadratic":
    title = "descent on a quadratic loss"
  plots.label(axis, title, "updates", "loss over first")
  axis.legend(fontsize=7, loc="upper right")


def _draw_speed(axis: Any, loss: np.ndarray, factor: float) -> None:
  """The speed of divergence by theory, through the last point shown."""
  last = int(np.flatnonzero(np.isfinite(loss))[-1])
  step = np.arange(last + 1)
  line = math.log10(loss[last]) + 2 * math.log10(2 * factor - 1) * (step - last)
  shown = line > -0.5
  plots.law(axis, step[shown], 10 ** line[shown])


def _draw_clipping(axis: Any, result: Result) -> None:
  names = list(result["causes"])
  places = np.arange(len(names))
  count = len(result["clipping"])
  for index, (kind, color) in enumerate(plots.colored(result["clipping"])):
    found = [result["causes"][name]["test_accuracy"] for name in names]
    mean, error = plots.of_finite(
      np.stack([values[index, :, -1] for values in found], 1)
    )
    x = places + (index - (count - 1) / 2) * 0.8 / count
    style = {"color": color, "label": kind, "error_kw": {"elinewidth": 1}}
    axis.bar(x, mean, 0.75 / count, yerr=error, **style)
    lost = x[np.isnan(mean)]
    axis.plot(lost, np.full(len(lost), 0.03), "x", color=color, markersize=5)
  axis.plot([], [], "x", color="gray", label="all diverged")
  plots.level(axis, 0.1, "chance")
  short = [n.replace(" ", "\n", 1).replace("(", "\n(") for n in names]
  axis.set_xticks(places, short, fontsize=7)
  axis.set_ylim(0, 1.35)
  axis.set_title("gradient clipping, by cause")
  axis.set_ylabel("test accuracy after training")
  axis.legend(fontsize=7, ncols=3, loc="upper center")
