"""Normal scores: what remains of a draw without its law and its scale.

Every sampler that inverts a distribution function is monotone in the uniform
numbers of its key. So the ranks of two draws with one key agree, whether they
are uniform, normal or truncated, and whatever their scales.
"""

import numpy as np

_FEW = 32  # different values: fewer are a table, a mask or an identity
_SERIAL = 0.5  # correlation of neighbours: a ramp or a wave, not a draw
_SIGMAS = 2.8  # of that correlation, where there are few entries


def normal_scores(samples: np.ndarray) -> np.ndarray:
  """Φ⁻¹ of each row's ranks, of mean 0 and length 1; 0 if it was not drawn.

  Args:
    samples: real numbers [rows, entries].
  """
  from scipy.special import ndtri

  samples = np.asarray(samples, float)
  entries = samples.shape[1]
  ranks, distinct = _ranks(samples)
  scores = ndtri((ranks + 0.5) / entries)
  scores -= scores.mean(axis=1, keepdims=True)
  scores /= np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), 1e-9)
  serial = abs((scores[:, 1:] * scores[:, :-1]).sum(axis=1))
  drawn = distinct > max(1, min(_FEW, entries // 2))
  drawn &= serial < max(_SERIAL, _SIGMAS / np.sqrt(entries))
  drawn &= np.isfinite(samples).all(axis=1)
  return np.where(drawn[:, None], scores, 0.0)


def _ranks(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Ranks from 0, equal entries share their mean; and how many differ."""
  order = samples.argsort(axis=1)
  ascending = np.take_along_axis(samples, order, axis=1)
  begins = np.ones(samples.shape, bool)  # of a run of equal entries
  begins[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
  ends = np.ones_like(begins)
  ends[:, :-1] = begins[:, 1:]
  place = np.broadcast_to(np.arange(samples.shape[1]), samples.shape)
  last = samples.shape[1] - 1
  first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
  after = np.where(ends, place, last)[:, ::-1]
  final = np.minimum.accumulate(after, axis=1)[:, ::-1]
  ranks = np.empty(samples.shape)
  np.put_along_axis(ranks, order, (first + final) / 2, axis=1)
  return ranks, begins.sum(axis=1)
