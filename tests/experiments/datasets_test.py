"""Data sets as experiments get them: shapes, standardisation, splits."""

import gzip

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import datasets


def test_digits_flat_and_as_images_are_the_same():
  flat = datasets.load_labelled("digits", 3)
  images = datasets.load_labelled("digits", 3, flat=False)
  assert images.inputs.shape == (1438, 8, 8, 1)
  assert images.test_inputs.shape == (359, 8, 8, 1)
  np.testing.assert_array_equal(images.inputs.reshape(1438, 64), flat.inputs)
  assert flat.inputs.dtype == jnp.float32
  assert flat.labels.dtype == jnp.int32


def test_the_split_depends_on_the_seed_and_loses_nothing():
  splits = [datasets.load_labelled("digits", seed) for seed in (0, 1)]
  assert not np.array_equal(splits[0].labels, splits[1].labels)
  for data in splits:
    together = np.concatenate([data.inputs, data.test_inputs])
    assert len(np.unique(together, axis=0)) == 1797
    np.testing.assert_allclose(together.mean(0), 0, atol=1e-5)


@pytest.fixture
def mnist(tmp_path):
  """A directory with a tiny MNIST, its training files gzipped."""
  rng = np.random.default_rng(0)
  arrays = {}
  for part, count in (("train", 6), ("t10k", 4)):
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    labels = rng.integers(0, 10, count, np.uint8)
    arrays[part] = images, labels
    for what, array in (("images", images), ("labels", labels)):
      header = bytes([0, 0, 8, array.ndim])
      header += np.array(array.shape, ">u4").tobytes()
      name = f"{part}-{what}-idx{array.ndim}-ubyte"
      content = header + array.tobytes()
      if part == "train":
        name, content = name + ".gz", gzip.compress(content)
      (tmp_path / name).write_bytes(content)
  return tmp_path, arrays


@pytest.mark.parametrize("flat", [False, True])
def test_published_images_are_standardised_by_the_training_part(mnist, flat):
  directory, arrays = mnist
  data = datasets.load_labelled("mnist", 0, str(directory), flat=flat)
  shape = (784,) if flat else (28, 28, 1)
  assert data.inputs.shape == (6, *shape)
  assert data.test_inputs.shape == (4, *shape)
  train, test = (arrays[part][0].astype(np.float64) for part in arrays)
  for ours, raw in ((data.inputs, train), (data.test_inputs, test)):
    expected = (raw - train.mean()) / train.std()
    # float32 of numbers up to 2, by way of numbers up to 255
    np.testing.assert_allclose(ours.ravel(), expected.ravel(), atol=1e-5)
  np.testing.assert_array_equal(data.test_labels, arrays["t10k"][1])


def test_the_directory_may_come_from_the_environment(mnist, monkeypatch):
  monkeypatch.setenv(datasets.DATA_DIR, str(mnist[0]))
  assert len(datasets.load_labelled("mnist", 0).labels) == 6


def test_published_images_go_in_at_unit_size(mnist, monkeypatch):
  directory, _ = mnist
  monkeypatch.setenv(datasets.DATA_DIR, str(directory))
  inputs = datasets.load_inputs("mnist", 3, 0)
  assert inputs.shape == (3, datasets.FEATURES["mnist"])
  np.testing.assert_allclose((inputs**2).mean(1), 1, rtol=1e-5)
  images = np.asarray(datasets.load_labelled("mnist", 0).inputs)
  cosines = inputs @ images.T / np.linalg.norm(images, axis=1) / 28
  np.testing.assert_allclose(cosines.max(1), 1, rtol=1e-5)  # one of them each
  with pytest.raises(ValueError, match=r"9999 different .*; mnist has 6"):
    datasets.load_inputs("mnist", 9999, 0)


def test_an_input_without_a_size_is_refused(monkeypatch):
  images = np.zeros((2, 28, 28, 1)), np.zeros(2)
  monkeypatch.setattr(datasets, "_published", lambda *_: images)
  with pytest.raises(ValueError, match="mnist has an input that is 0 everywh"):
    datasets.load_inputs("mnist", 2, 0)


def test_constant_images_are_refused(mnist):
  directory, _ = mnist
  header = bytes([0, 0, 8, 3]) + np.array([6, 28, 28], ">u4").tobytes()
  path = directory / "train-images-idx3-ubyte"
  path.write_bytes(header + bytes(6 * 784))
  with pytest.raises(ValueError, match="all pixels are the same"):
    datasets.load_labelled("mnist", 0, str(directory))


def test_unknown_names_are_refused():
  with pytest.raises(
    ValueError, match=r"must be one of .*cifar10.*got 'minst'"
  ):
    datasets.load_labelled("minst", 0)
