"""The data that experiments run on: embedded, so that nothing is downloaded."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments._training import Labelled

DATASETS = ("digits", "synthetic")


def load_inputs(dataset: str, batch: int, seed: int) -> np.ndarray:
  """`batch` inputs of 64 features, each of unit second moment: [batch, 64].

  "digits" are scikit-learn's 1797 real 8×8 images of handwritten digits; every
  pixel is standardised over the data set. "synthetic" is white noise. Each
  input is then divided by its root mean square, so that one number, q = 1,
  says how large they all are.

  Raises:
    ValueError: for an unknown data set, or more inputs than it has.
    ImportError: if scikit-learn is missing, with what to install.
  """
  rng = np.random.default_rng(seed)
  if dataset == "synthetic":
    inputs = rng.standard_normal((batch, 64))
  elif dataset == "digits":
    inputs = _standardised_digits()
  else:
    raise ValueError(f"dataset must be one of {DATASETS}; got {dataset!r}.")
  if batch > len(inputs):
    raise ValueError(
      f"batch must be at most {len(inputs)} for {dataset}; got {batch}."
    )
  chosen = rng.permutation(len(inputs))[:batch]
  inputs = inputs[chosen]
  root_mean_square = np.sqrt(np.mean(inputs**2, axis=1, keepdims=True))
  return (inputs / root_mean_square).astype(np.float32)


def _standardised_digits() -> np.ndarray:
  """[1797, 64]: mean 0 and variance 1 per pixel; constant pixels are 0."""
  pixels = _digits().data
  spread = pixels.std(axis=0)
  return (pixels - pixels.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def _digits() -> Any:
  try:
    from sklearn import datasets
  except ImportError as error:
    raise ImportError(
      "the digits are part of scikit-learn: pip install 'initjax[data]', or "
      "run with --dataset=synthetic."
    ) from error
  return datasets.load_digits()


def load_labelled(dataset: str, seed: int, data_dir: str = "") -> Labelled:
  """Inputs of mean 0 and variance 1 over the data set, and their labels.

  A fifth of the digits, chosen by `seed`, is what is tested on. Features that
  are constant over the data set are 0.

  Raises:
    ValueError: for an unknown data set.
    ImportError: if scikit-learn is missing, with what to install.
  """
  del data_dir
  if dataset != "digits":
    raise ValueError(f"dataset must be digits; got {dataset!r}.")
  inputs = _standardised_digits().astype(np.float32)
  labels = _digits().target.astype(np.int32)
  order = np.random.default_rng(seed).permutation(len(labels))
  test, train = np.split(order, [len(labels) // 5])
  parts = inputs[train], labels[train], inputs[test], labels[test]
  return Labelled(*map(jnp.asarray, parts))
