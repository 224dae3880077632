"""Infinite width: what each layer of a stack does to the stream it is given.

A stream h has the second moment q and, between two inputs, the correlation c;
a layer makes of it skip·h + branch·(W·φ(norm(h)) + b).
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from initjax._activations import identity
from initjax.meanfield._moment_tables import (
  Response,
  Spectrum,
  mehler,
  response,
  spectrum_of,
)
from initjax.typing import Activation


class Layer(NamedTuple):
  """One layer of a stack: skip·h + branch·(W·φ(norm(h)) + b) of a stream h."""

  activation: Activation | None = None
  """φ; None is the identity"""
  sigma_w2: float = 1.0
  """σ_w² > 0: weights have the variance σ_w²/fan_in"""
  sigma_b2: float = 0.0
  """σ_b² >= 0: the variance of biases"""
  width: int | None = None
  """number of outputs; None for infinitely many"""
  skip: float = 0.0
  """what is kept of the stream; 0 in a plain layer"""
  branch: float = 1.0
  """scales what the layer adds"""
  normalization: Literal["none", "layer", "batch"] = "none"
  """of the stream before φ: over units, or over an infinite batch"""


class Steps(NamedTuple):
  """All layers, [depth] each; "in" is the stream that a layer is given."""

  log2_in: np.ndarray
  log2_out: np.ndarray
  """log₂ of the second moment"""
  correlation_in: np.ndarray
  correlation_out: np.ndarray
  log2_gradient: np.ndarray
  """log₂ of the gradient's second moment at "in" over that at "out" """
  response: Response[np.ndarray]
  """of φ at the variance it sees"""
  spectrum: Spectrum
  """likewise"""
  signal_share: np.ndarray
  """w: part of σ_w²·E[φ²] in σ_w²·E[φ²] + σ_b²"""
  skip_share: np.ndarray
  """λ: part of the skip in the stream's second moment"""
  gradient_share: np.ndarray
  """μ: part of the branch in the gradient's second moment"""
  respond: tuple[Callable[[float], Response[float]], ...]
  """of each φ, at any log₂ of a variance"""


def steps_of(
  layers: Sequence[Layer], log2_second_moment: float, correlation: float
) -> Steps:
  """Sends a stream through the layers, at infinite width."""
  functions = [layer.activation or identity for layer in layers]
  tables = {phi: response(phi) for phi in dict.fromkeys(functions)}
  respond = tuple(tables[phi] for phi in functions)
  lengths, table = _lengths(layers, respond, log2_second_moment)
  log2_in, log2_out, w, skip_share = lengths.T
  responses = Response(*table.T)
  normalized = np.array([layer.normalization != "none" for layer in layers])
  spectrum = _spectra(layers, np.where(normalized, 0.0, log2_in))
  correlations = _correlations(layers, spectrum, w, skip_share, correlation)
  log2_gradient, gradient_share = _gradients(
    layers, log2_in, correlations[:-1], responses.log2_derivative
  )
  return Steps(
    log2_in,
    log2_out,
    correlations[:-1],
    correlations[1:],
    log2_gradient,
    responses,
    spectrum,
    w,
    skip_share,
    gradient_share,
    respond,
  )


def _lengths(
  layers: Sequence[Layer],
  respond: Sequence[Callable[[float], Response[float]]],
  log2_q: float,
) -> tuple[np.ndarray, np.ndarray]:
  """[depth, 4]: log₂ q before and after, w, λ; and [depth, 6] `Response`."""
  lengths, responses = [], []
  for layer, table in zip(layers, respond, strict=True):
    seen = log2_q if layer.normalization == "none" else 0.0
    found = table(seen)
    log2_signal = math.log2(layer.sigma_w2) + found.log2_second_moment
    log2_branch = np.logaddexp2(log2_signal, _log2(layer.sigma_b2))
    log2_kept = _log2(layer.skip**2) + log2_q
    log2_out = np.logaddexp2(log2_kept, _log2(layer.branch**2) + log2_branch)
    w, skip_share = np.exp2([log2_signal - log2_branch, log2_kept - log2_out])
    lengths.append([log2_q, log2_out, w, skip_share])
    responses.append(found)
    log2_q = float(log2_out)
  return np.array(lengths), np.array(responses)


def _gradients(
  layers: Sequence[Layer],
  log2_q: np.ndarray,
  correlation: np.ndarray,
  log2_derivative: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """log₂(skip² + branch²·χ/s) and the branch's part of it [depth].

  s is what a normalization divides by; both are those of "in".
  """
  branch = [layer.branch**2 * layer.sigma_w2 for layer in layers]
  skip = [layer.skip**2 for layer in layers]
  with np.errstate(divide="ignore"):
    log2_kept, log2_added = np.log2(skip), np.log2(branch) + log2_derivative
    log2_spread = log2_q + np.log2(np.maximum(1 - correlation, 0.0))
  names = [layer.normalization for layer in layers]
  log2_added = log2_added - np.select(
    [[name == "layer" for name in names], [name == "batch" for name in names]],
    [log2_q, log2_spread],
    0.0,
  )
  total = np.logaddexp2(log2_kept, log2_added)
  finite = np.isfinite(total)
  share = np.exp2(np.where(finite, log2_added, 0) - np.where(finite, total, 0))
  return total, share


def _log2(x: float) -> float:
  return math.log2(x) if x > 0 else -math.inf


def _spectra(layers: Sequence[Layer], log2_q: np.ndarray) -> Spectrum:
  """Spectra of each layer's φ at the variance it sees."""
  functions = [layer.activation or identity for layer in layers]
  fields: list[np.ndarray] = []
  for function in set(functions):
    own = [i for i, each in enumerate(functions) if each == function]
    found = spectrum_of(function, log2_q[own])
    fields = fields or [np.zeros((len(layers), x.shape[1])) for x in found]
    for field, rows in zip(fields, found, strict=True):
      field[own] = rows
  return Spectrum(*fields)


def _correlations(
  layers: Sequence[Layer],
  spectrum: Spectrum,
  w: np.ndarray,
  skip_share: np.ndarray,
  correlation: float,
) -> np.ndarray:
  """[depth + 1]: of the data, and after each layer."""
  found = [correlation]
  for i, layer in enumerate(layers):
    seen = 0.0 if layer.normalization == "batch" else found[-1]
    value = spectrum.value[i]
    shared = float(mehler(value, value, np.array(seen)))
    branch = w[i] * shared + 1 - w[i]
    found.append(skip_share[i] * found[-1] + (1 - skip_share[i]) * branch)
  return np.clip(found, -1.0, 1.0)
