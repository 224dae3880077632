"""The source text of Python's standard library, byte by byte."""

import functools
import importlib.util
import pathlib

import jax.numpy as jnp
import numpy as np

from experiments.common.training import Labelled

MODULES = ("argparse", "ast", "inspect", "pathlib", "subprocess", "tarfile")
"""whose text is learnt"""
LENGTH = 32
"""bytes of a sample"""


def source_text(samples: int, seed: int) -> Labelled:
  """The next byte of Python source; what is not ASCII is 127."""
  data = np.frombuffer(_text(), np.uint8).clip(max=127).astype(np.int32)
  starts = np.random.default_rng(seed).integers(
    0, len(data) - LENGTH - 1, 2 * samples
  )
  rows = data[starts[:, None] + np.arange(LENGTH + 1)]
  first, second = jnp.asarray(rows[:samples]), jnp.asarray(rows[samples:])
  parts = first[:, :-1], first[:, 1:], second[:, :-1], second[:, 1:]
  return Labelled(*parts).first(samples)


@functools.cache
def _text() -> bytes:
  found = [importlib.util.find_spec(name) for name in MODULES]
  paths = [spec.origin for spec in found if spec and spec.origin]
  return b"".join(pathlib.Path(path).read_bytes() for path in paths)
