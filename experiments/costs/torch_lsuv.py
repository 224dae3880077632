"""LSUV as published, in PyTorch: an optional peer of `initjax.calibrate`.

Mishkin & Matas 2016, algorithm 1: start from orthonormal kernels; then, layer
by layer, run the network, divide the layer's kernel by the standard deviation
of its output, and repeat until the variance is within a tolerance of 1.
"""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np


def network(sizes: Sequence[int], seed: int) -> tuple[Any, list[Any]]:
  """A ReLU network of orthonormal layers without biases, and these layers."""
  import torch

  torch.manual_seed(seed)
  layers = []
  for fan_in, fan_out in itertools.pairwise(sizes):
    linear = torch.nn.Linear(fan_in, fan_out, bias=False)
    torch.nn.init.orthogonal_(linear.weight)
    layers.append(linear)
  modules = [m for linear in layers for m in (linear, torch.nn.ReLU())]
  return torch.nn.Sequential(*modules), layers


def lsuv(
  model: Any, layers: list[Any], x: Any, *, tolerance: float, tries: int
) -> int:
  """Rescales the layers in place; returns the number of forward passes."""
  passes = 0
  for linear in layers:
    for _ in range(tries):
      variance = variances(model, [linear], x)[0]
      passes += 1
      if abs(variance - 1) < tolerance:
        break
      linear.weight.data /= variance**0.5
  return passes


def variances(model: Any, layers: list[Any], x: Any) -> list[float]:
  """Of the layers' outputs, in one forward pass."""
  import torch

  found: list[float] = []
  hooks = [
    linear.register_forward_hook(
      lambda module, given, output: found.append(float(output.var()))
    )
    for linear in layers
  ]
  with torch.no_grad():
    model(x)
  for hook in hooks:
    hook.remove()
  return found


def compare(
  inputs: np.ndarray,
  sizes: Sequence[int],
  *,
  seed: int,
  tolerance: float,
  tries: int,
  runs: int,
) -> dict[str, float]:
  """Passes, time over that of a plain pass, and how far variances are off.

  On one thread: layers as small as these gain nothing from more.
  """
  import torch

  torch.set_num_threads(1)
  x = torch.tensor(np.array(inputs))
  model, layers = network(sizes, seed)

  def plain() -> float:
    start = time.perf_counter()
    with torch.no_grad():
      model(x)
    return time.perf_counter() - start

  plain()
  once = float(np.median([plain() for _ in range(runs)]))
  start = time.perf_counter()
  passes = lsuv(model, layers, x, tolerance=tolerance, tries=tries)
  seconds = time.perf_counter() - start
  errors = np.abs(np.array(variances(model, layers, x)) - 1)
  return {
    "passes": passes,
    "time / plain pass": seconds / once,
    "largest |variance - 1|": float(errors.max()),
  }
