"""What every test of a distribution asks, and draws for one program's price."""

import math

import jax
import numpy as np
import pytest
from scipy import stats


def _assert_law(sample, law):
  """Mean, variance and shape of independent draws from a scipy `law`.

  With N draws the mean errs by σ/√N, the variance by σ²·√((κ - 1)/N) with κ
  the kurtosis: five standard errors each (p < 1e-6). The keys are fixed, so
  the Kolmogorov-Smirnov threshold 1e-4 was met once and for all.
  """
  sample = np.asarray(sample, np.float64).ravel()
  mean, variance, excess = (float(m) for m in law.stats("mvk"))
  root_n = math.sqrt(sample.size)
  assert abs(sample.mean() - mean) < 5 * math.sqrt(variance) / root_n
  error = 5 * variance * math.sqrt(excess + 2) / root_n
  assert abs(sample.var() - variance) < error
  assert stats.kstest(sample, law.cdf).pvalue > 1e-4


@pytest.fixture
def assert_law():
  return _assert_law


def _drawn(key, *cases):
  """A NumPy array of each (initializer, shape), all compiled at once."""
  draw = lambda key: [build(key, shape) for build, shape in cases]
  return [np.array(each) for each in jax.jit(draw)(key)]


@pytest.fixture
def drawn():
  return _drawn
