"""The data that experiments run on: embedded, or in files that are there."""

import hashlib
import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.common.training import Labelled
from experiments.data import image_files

DATASETS = ("digits", "mnist", "cifar10")
"""what `load_labelled` knows"""

INPUTS = (*DATASETS, "synthetic")
"""what `load_inputs` knows"""

FEATURES = {"digits": 64, "mnist": 784, "cifar10": 3072, "synthetic": 64}
"""of each, flat"""

DATA_DIR = "INITJAX_DATA_DIR"
"""the environment's name of where files are; --data_dir sets it"""


def load_inputs(dataset: str, batch: int, seed: int) -> np.ndarray:
  """`batch` inputs, each of unit second moment: [batch, features].

  "digits" are scikit-learn's 1797 real 8×8 images of handwritten digits; every
  pixel is standardised over the data set. "mnist" and "cifar10" are the
  training images as `load_labelled` gives them. "synthetic" is white noise, 64
  numbers each. Each input is then divided by its root mean square, so that one
  number, q = 1, says how large they all are.

  Raises:
    ValueError: for an unknown data set, more inputs than it has, or files that
      are not what they should be.
    ImportError: if scikit-learn is missing, with what to install.
  """
  rng = np.random.default_rng(seed)
  if dataset == "synthetic":
    inputs = rng.standard_normal((batch, FEATURES[dataset]))
  elif dataset == "digits":
    inputs = _standardised_digits()
  elif dataset in DATASETS:
    images = _published(dataset, os.environ.get(DATA_DIR, ""))[0]
    inputs = images.reshape(len(images), -1)
  else:
    raise ValueError(f"dataset must be one of {INPUTS}; got {dataset!r}.")
  _check_batch(batch, len(inputs), dataset)
  chosen = rng.permutation(len(inputs))[:batch]
  inputs = inputs[chosen]
  root_mean_square = np.sqrt(np.mean(inputs**2, axis=1, keepdims=True))
  if not root_mean_square.all():
    raise ValueError(f"{dataset} has an input that is 0 everywhere.")
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


def load_labelled(
  dataset: str, seed: int, data_dir: str = "", *, flat: bool = True
) -> Labelled:
  """Inputs of mean 0 and variance 1, and their labels 0 to 9.

  "mnist" and "cifar10" are split as published, and standardised by one mean and
  variance for each channel of the training images. Of "digits" a fifth, chosen
  by `seed`, is what is tested on; each pixel is standardised, and those that
  are constant over the data set are 0.

  Args:
    dataset: one of `DATASETS`.
    seed: of the split of digits.
    data_dir: where files are; by default what --data_dir or the environment's
      INITJAX_DATA_DIR says. Nothing is ever downloaded.
    flat: inputs as [samples, features], or as images [samples, height, width,
      channels].

  Raises:
    ValueError: for an unknown data set, or files that are not what they should
      be; it names the file.
    ImportError: if scikit-learn is missing, with what to install.
  """
  if dataset == "digits":
    parts = _split_digits(seed)
  elif dataset in DATASETS:
    parts = _published(dataset, data_dir or os.environ.get(DATA_DIR, ""))
  else:
    raise ValueError(f"dataset must be one of {DATASETS}; got {dataset!r}.")
  inputs, labels, test_inputs, test_labels = parts
  if flat:
    inputs, test_inputs = (x.reshape(len(x), -1) for x in (inputs, test_inputs))
  return Labelled(
    jnp.asarray(inputs, jnp.float32),
    jnp.asarray(labels, jnp.int32),
    jnp.asarray(test_inputs, jnp.float32),
    jnp.asarray(test_labels, jnp.int32),
  )


def _split_digits(seed: int) -> tuple[np.ndarray, ...]:
  inputs, labels = _standardised_digits().reshape(-1, 8, 8, 1), _digits().target
  order = np.random.default_rng(seed).permutation(len(labels))
  test, train = np.split(order, [len(labels) // 5])
  return inputs[train], labels[train], inputs[test], labels[test]


def _published(dataset: str, data_dir: str) -> tuple[np.ndarray, ...]:
  found = image_files.load_images(dataset, data_dir)
  (train, labels), (test, test_labels) = found
  axes = (0, 1, 2)
  mean = train.mean(axis=axes, dtype=np.float64).astype(np.float32)
  spread = train.std(axis=axes, dtype=np.float64).astype(np.float32)
  if not spread.all():
    raise ValueError(f"{dataset} in {data_dir!r}: all pixels are the same.")
  return (train - mean) / spread, labels, (test - mean) / spread, test_labels


def check(dataset: str, batch: int = 1, training: int = 1) -> None:
  """Raises what loading would, before any device is used.

  Args:
    dataset: its name.
    batch: different inputs that are wanted of `load_inputs`.
    training: different ones that are wanted of the part that is learnt.
  """
  if dataset == "synthetic":
    return
  if dataset == "digits":
    count = len(_digits().target)
    learnt = count - count // 5
  else:
    found = image_files.load_images(dataset, os.environ.get(DATA_DIR, ""))
    count = learnt = len(found.train[1])
  _check_batch(batch, count, dataset)
  _check_batch(training, learnt, f"the training part of {dataset}")


def fingerprint(dataset: str) -> str:
  """A hash of all its images and labels, their types and shapes."""
  digest = hashlib.sha256()
  if dataset == "digits":
    arrays = [_digits().data, _digits().target]
  elif dataset == "synthetic":
    arrays = []
  else:
    found = image_files.load_images(dataset, os.environ.get(DATA_DIR, ""))
    arrays = [*found.train, *found.test]
  for array in arrays:
    digest.update(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
  return digest.hexdigest()


def _check_batch(batch: int, count: int, dataset: str) -> None:
  if batch > count:
    raise ValueError(
      f"{batch} different inputs are wanted; {dataset} has {count}."
    )
