"""Infinite width: how each layer of a stack changes its input stream.

A stream h has the second moment q and, between two inputs, the correlation c;
a layer turns it into skip·h + branch·(W·x + b), where x is φ(norm(h)),
norm(φ(h)) or, with a gate, the product of two halves.
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
  """One layer of a stack: skip·h + branch·(W·φ(norm(h)) + b) for a stream h."""

  activation: Activation | None = None
  """φ; None is the identity"""
  sigma_w2: float = 1.0
  """σ_w² > 0: weights have the variance σ_w²/fan_in"""
  sigma_b2: float = 0.0
  """σ_b² >= 0: the variance of biases"""
  width: int | None = None
  """number of outputs; None for infinitely many"""
  skip: float = 0.0
  """factor of the stream that is kept; 0 in a plain layer"""
  branch: float = 1.0
  """factor of what the layer adds"""
  normalization: Literal["none", "layer", "rms", "batch"] = "none"
  """over units ("layer" subtracts the mean, "rms" not), or an infinite batch"""
  normalize_after: bool = False
  """whether φ(h) is normalized, rather than h before φ"""
  gated: bool = False
  """whether φ(h)·h' replaces φ(h), where h and h' are the two halves of the
  units; a preceding layer that makes both then counts as two matrices"""

  @property
  def normalizes_stream(self) -> bool:
    return self.normalization != "none" and not self.normalize_after

  @property
  def normalizes_x(self) -> bool:
    return self.normalization != "none" and self.normalize_after


class Steps(NamedTuple):
  """All layers, [depth] each; "in" is the stream that enters a layer."""

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
  normalized = np.array([layer.normalizes_stream for layer in layers])
  spectrum = _spectra(layers, np.where(normalized, 0.0, log2_in))
  correlations, removed = _correlations(
    layers, spectrum, w, skip_share, correlation
  )
  log2_gradient, gradient_share = _gradients(
    layers, log2_in, responses, removed
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
    seen = 0.0 if layer.normalizes_stream else log2_q
    found = _gated(table(seen), seen) if layer.gated else table(seen)
    log2_x = 0.0 if layer.normalizes_x else found.log2_second_moment
    log2_signal = math.log2(layer.sigma_w2) + log2_x
    log2_branch = np.logaddexp2(log2_signal, _log2(layer.sigma_b2))
    log2_kept = _log2(layer.skip**2) + log2_q
    log2_out = np.logaddexp2(log2_kept, _log2(layer.branch**2) + log2_branch)
    w, skip_share = np.exp2([log2_signal - log2_branch, log2_kept - log2_out])
    lengths.append([log2_q, log2_out, w, skip_share])
    responses.append(found)
    log2_q = float(log2_out)
  return np.array(lengths), np.array(responses)


def _gated(r: Response[float], log2_q: float) -> Response[float]:
  """Sizes of φ(h)·h'; the slopes, which chance alone asks for, as of φ(h)."""
  through_gate = r.log2_derivative + log2_q
  return r._replace(
    log2_second_moment=r.log2_second_moment + log2_q,
    log2_derivative=float(np.logaddexp2(through_gate, r.log2_second_moment)),
  )


def _gradients(
  layers: Sequence[Layer],
  log2_q: np.ndarray,
  responses: Response[np.ndarray],
  removed: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """log₂(skip² + branch²·χ/s) and the branch's part of it [depth].

  s is what a normalization divides by: a second moment, but for the part that
  it removes.
  """
  branch = [layer.branch**2 * layer.sigma_w2 for layer in layers]
  skip = [layer.skip**2 for layer in layers]
  after = [layer.normalize_after for layer in layers]
  divides = [layer.normalization != "none" for layer in layers]
  with np.errstate(divide="ignore"):
    log2_kept = np.log2(skip)
    log2_added = np.log2(branch) + responses.log2_derivative
    log2_spread = np.where(after, responses.log2_second_moment, log2_q)
    log2_spread = log2_spread + np.log2(np.maximum(1 - removed, 0.0))
  log2_added = log2_added - np.where(divides, log2_spread, 0.0)
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
) -> tuple[np.ndarray, np.ndarray]:
  """[depth + 1]: of the data, and after each layer.

  [depth]: the part of a second moment that a normalization removes.
  """
  found, removed = [correlation], []
  for i, layer in enumerate(layers):
    fed, lost = _fed(layer, spectrum.value[i], found[-1])
    branch = w[i] * fed + 1 - w[i]
    found.append(skip_share[i] * found[-1] + (1 - skip_share[i]) * branch)
    removed.append(lost)
  return np.clip(found, -1.0, 1.0), np.array(removed)


def _fed(layer: Layer, value: np.ndarray, c: float) -> tuple[float, float]:
  """The correlation of x, and what a normalization removed on the way."""
  removed = 0.0
  if layer.normalizes_stream and layer.normalization == "batch":
    removed, c = c, 0.0
  shared = float(mehler(value, value, np.array(c)))
  alone = value[0] ** 2
  if layer.gated:
    shared, alone = shared * c, 0.0
  if layer.normalize_after:
    parts = {"layer": alone, "batch": shared}
    removed = parts.get(layer.normalization, 0.0)
    shared = (shared - removed) / max(1 - removed, 1e-300)
  return shared, removed
