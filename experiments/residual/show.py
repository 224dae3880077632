"""Signal, gradient and learning in residual networks."""

from typing import Any

import numpy as np

from experiments.common import plots
from experiments.common.training import best_rate
from experiments.runtime.experiment import Result

_FLOAT32 = np.finfo(np.float32)
BOUNDS = {
  "least normal float32": 2 * float(np.log10(_FLOAT32.tiny)),
  "greatest float32": 2 * float(np.log10(_FLOAT32.max)),
}
"""log₁₀ of their squares; CPUs flush what is less, and more is infinite"""


def figure(result: Result) -> Any:
  """Above: signal, gradient, identity; below: training."""
  panels = list(result["digits"])
  drawn, axes = plots.grid(2, max(3, 1 + len(panels)))
  _draw_signal(axes[0, 0], result)
  _draw_gradient(axes[0, 1], result)
  _draw_identity(axes[0, 2], result)
  for axis, blocks in zip(axes[1], panels, strict=False):
    _draw_digits(axis, result, blocks)
  for axis in (*axes[0, 3:], *axes[1, len(panels) : -1]):
    axis.set_visible(False)
  _draw_identity_course(axes[1, -1], result)
  config = result["config"]
  plots.setting(
    drawn,
    f"{config['draws']} random networks: signals at width "
    f"{config['forward_width']}, gradients at {config['gradient_width']}; "
    f"{config['seeds']} trained ones of width {config['width']} at the best of "
    f"{len(config['rates'])} rates; two standard errors",
  )
  return drawn


def _draw_signal(axis: Any, result: Result) -> None:
  for (name, values), color in plots.colored(result["signal"].items()):
    steps = np.arange(values.shape[1])
    plots.line_with_band(axis, steps, plots.LOG10_2 * values, color, name)
    law = plots.LOG10_2 * result["theory"]["signal"][name]
    plots.law(axis, steps, law)
  plots.law(axis, [], [], label="theory")
  axis.set_xlabel("block l")
  axis.set_ylabel("log₁₀ second moment of the stream")
  axis.set_title("signal of random networks")
  axis.set_ylim(bottom=2 * axis.get_ylim()[0])  # room for the legend
  axis.legend(fontsize="small", loc="lower left")


def _draw_gradient(axis: Any, result: Result) -> None:
  """Within what float32 can hold; theory goes on beyond."""
  depths = np.array(result["config"]["gradient_depths"])
  drift = plots.LOG10_2 * result["theory"]["finite_width_drift"]
  for (name, values), color in plots.colored(result["gradient"].items()):
    values = np.where(np.isfinite(values), plots.LOG10_2 * values, np.nan)
    plots.points(axis, depths, values, color, name)
    law = plots.LOG10_2 * result["theory"]["gradient"][name]
    law = law + drift if name.startswith("plain") else law
    plots.law(axis, depths, law, color=color)
  label = "theory (plain: at this width)"
  plots.law(axis, [], [], label=label, color="gray")
  for (name, bound), place in zip(
    BOUNDS.items(), ("top", "bottom"), strict=True
  ):
    axis.axhline(bound, color="gray", linestyle=":")
    axis.text(depths[0], bound, name, va=place, fontsize="small")
  axis.set_xscale("log")
  axis.set_ylim(-90, 90)
  axis.set_xlabel("depth (layers)")
  axis.set_ylabel("log₁₀ of gradient², first over last")
  axis.set_title("gradient of the first layer")
  axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, 0.93))


def _draw_digits(axis: Any, result: Result, blocks: str) -> None:
  for (name, found), color in plots.colored(result["digits"][blocks].items()):
    row = best_rate(found["loss"])
    values = found["test_accuracy"][row]
    steps = np.linspace(0, result["config"]["steps"], values.shape[-1])
    plots.line_with_band(axis, steps, values, color, name, plots.DIVERGED)
  axis.set_ylim(0, 1)
  axis.set_xlabel("updates")
  axis.set_ylabel("test accuracy")
  axis.set_title(f"digits, {blocks} blocks of 2 layers")
  axis.legend(fontsize="small")


def _draw_identity(axis: Any, result: Result) -> None:
  counts = [int(blocks) for blocks in result["identity"]]
  for name, color in plots.colored(("plain", "residual")):
    courses = [kinds[name] for kinds in result["identity"].values()]
    values = np.stack([course[best_rate(course)][:, -1] for course in courses])
    mean, error = plots.mean_and_error(values, 1)
    axis.errorbar(counts, mean, 2 * error, fmt="o-", color=color, label=name)
  axis.set_xscale("log")
  axis.set_xticks(counts, labels=map(str, counts))
  axis.minorticks_off()
  axis.set_yscale("log")
  axis.set_xlabel("blocks of 2 layers")
  axis.set_ylabel("squared error over squared input")
  axis.set_title("identity, after training")
  axis.legend()


def _draw_identity_course(axis: Any, result: Result) -> None:
  blocks = list(result["identity"])[-1]
  for (name, values), color in plots.colored(
    result["identity"][blocks].items()
  ):
    course = values[best_rate(values)]
    steps = np.linspace(0, result["config"]["steps"], course.shape[-1])
    plots.line_with_band(axis, steps, course, color, name)
  axis.set_yscale("log")
  axis.set_xlabel("updates")
  axis.set_ylabel("squared error over squared input")
  axis.set_title(f"identity, {blocks} blocks")
  axis.legend()
