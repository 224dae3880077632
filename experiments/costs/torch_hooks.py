"""The same statistics, taken by PyTorch's module hooks: an optional peer."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.costs.timing import torch_is_installed


def networks(
  kernels: jax.Array, x: jax.Array, *, watched: bool
) -> dict[str, Callable[[], float]]:
  """Functions that run the network, watched or not, and return seconds.

  Forward hooks see the output of every linear layer, full backward hooks the
  gradient with respect to it. One runs on a single thread, the other on as
  many as torch likes; none if torch is not installed.
  """
  if not torch_is_installed():
    return {}
  import torch

  layers = []
  for kernel in np.asarray(kernels):
    linear = torch.nn.Linear(kernel.shape[0], kernel.shape[1], bias=False)
    linear.weight = torch.nn.Parameter(
      torch.tensor(kernel.T.copy()), requires_grad=False
    )
    layers += [linear, torch.nn.ReLU()]
    if watched:
      _watch(linear)
  model = torch.nn.Sequential(*layers)
  inputs = torch.tensor(np.asarray(x), requires_grad=True)
  cotangent = torch.ones_like(inputs)

  def timed(threads: int) -> float:
    torch.set_num_threads(threads)
    start = time.perf_counter()
    model(inputs).backward(cotangent)
    inputs.grad = None
    return time.perf_counter() - start

  return {
    f"torch {'hooks' if watched else 'plain'} on {threads}": functools.partial(
      timed, threads
    )
    for threads in (1, torch.get_num_threads())
  }


def _watch(linear: Any) -> None:
  """Hooks a layer; only its last statistics are kept."""
  rows: list[Any] = []

  def forward(module: Any, given: Any, output: Any) -> None:
    del module, given
    rows[:1] = [_statistics(output.detach())]

  def backward(module: Any, given: Any, output: Any) -> None:
    del module, given
    rows[1:] = [_statistics(output[0])]

  linear.register_forward_hook(forward)
  linear.register_full_backward_hook(backward)


def _statistics(x: Any) -> tuple[Any, ...]:
  """Mean, log₂ second moment, largest, zeros, not finite."""
  largest = x.abs().max()
  unit = largest.clamp(min=1e-30)
  log2_moment = (x / unit).square().mean().log2() + 2 * unit.log2()
  nonfinite = (~x.isfinite()).sum()
  return x.mean(), log2_moment, largest, (x == 0).sum(), nonfinite
