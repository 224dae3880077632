"""MNIST and CIFAR-10 files, written here in every published form."""

import gzip
import pickle
import struct

import numpy as np
import pytest

from experiments.data import image_files

RNG = np.random.default_rng(0)
MNIST = {
  part: (
    RNG.integers(0, 256, (count, 28, 28), np.uint8),
    RNG.integers(0, 10, count, np.uint8),
  )
  for part, count in (("train", 5), ("test", 3))
}
CIFAR = [
  (RNG.integers(0, 256, (2, 32, 32, 3), np.uint8), np.array([i, 9], np.uint8))
  for i in range(6)
]
"""five batches to learn from, and one to test on"""


def idx(array):
  header = bytes([0, 0, 8, array.ndim])
  return header + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_mnist(directory, dot="-", compress=False):
  for part, (images, labels) in MNIST.items():
    stem = "train" if part == "train" else "t10k"
    for name, array in (
      (f"{stem}-images{dot}idx3-ubyte", images),
      (f"{stem}-labels{dot}idx1-ubyte", labels),
    ):
      content = gzip.compress(idx(array)) if compress else idx(array)
      (directory / (name + ".gz" * compress)).write_bytes(content)


def channels_first(images):
  return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def batch_names(end=""):
  return [*(f"data_batch_{i}{end}" for i in range(1, 6)), f"test_batch{end}"]


def write_cifar_binary(directory):
  for name, (images, labels) in zip(batch_names(".bin"), CIFAR, strict=True):
    rows = np.concatenate([labels[:, None], channels_first(images)], axis=1)
    (directory / name).write_bytes(rows.tobytes())


def write_cifar_python(directory, protocol=2):
  for name, (images, labels) in zip(batch_names(), CIFAR, strict=True):
    batch = {
      b"batch_label": b"one of them",
      b"labels": labels.tolist(),
      b"data": channels_first(images),
    }
    (directory / name).write_bytes(pickle.dumps(batch, protocol))


def write_npz(path, train, test):
  with path.open("wb") as file:
    np.savez(
      file, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1]
    )


def check_cifar(found):
  images, labels = (
    np.concatenate(part) for part in zip(*CIFAR[:5], strict=True)
  )
  for ours, expected in (
    (found.train[0], images),
    (found.train[1], labels),
    (found.test[0], CIFAR[5][0]),
    (found.test[1], CIFAR[5][1]),
  ):
    np.testing.assert_array_equal(ours, expected)


def check_mnist(found):
  for ours, (images, labels) in zip(found, MNIST.values(), strict=True):
    np.testing.assert_array_equal(ours[0], images[..., None])
    np.testing.assert_array_equal(ours[1], labels)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
def test_mnist_in_idx(tmp_path, dot, compress):
  write_mnist(tmp_path, dot, compress)
  check_mnist(image_files.load_images("mnist", str(tmp_path)))


def test_mnist_in_npz(tmp_path):
  write_npz(tmp_path / "mnist.npz", *MNIST.values())
  check_mnist(image_files.load_images("mnist", str(tmp_path)))


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin"])
def test_cifar_in_binary(tmp_path, folder):
  (tmp_path / folder).mkdir(exist_ok=True)
  write_cifar_binary(tmp_path / folder)
  check_cifar(image_files.load_images("cifar10", str(tmp_path)))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar_in_python(tmp_path, protocol):
  write_cifar_python(tmp_path, protocol)
  check_cifar(image_files.load_images("cifar10", str(tmp_path)))


def test_cifar_pickled_by_an_older_numpy(tmp_path):
  """The published files name modules that NumPy has since renamed."""
  write_cifar_python(tmp_path)
  for name in batch_names():
    path = tmp_path / name
    content = path.read_bytes().replace(b"numpy._core.", b"numpy.core.")
    path.write_bytes(content)
  check_cifar(image_files.load_images("cifar10", str(tmp_path)))


def test_cifar_in_npz(tmp_path):
  """Keras has labels as a column."""
  images, labels = (
    np.concatenate(part) for part in zip(*CIFAR[:5], strict=True)
  )
  test = CIFAR[5][0], CIFAR[5][1][:, None]
  write_npz(tmp_path / "cifar10.npz", (images, labels[:, None]), test)
  check_cifar(image_files.load_images("cifar10", str(tmp_path)))


def test_cifar_pickled_by_python_2(tmp_path):
  """Step by step as in the published files, whose texts are bytes."""
  for name, (images, labels) in zip(batch_names(), CIFAR, strict=True):
    rows = channels_first(images).tobytes()
    size, digits = struct.pack("<I", len(rows)), map(bytes, labels[:, None])
    (tmp_path / name).write_bytes(
      b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\n"
      b"q\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05U\x01bq\x06\x87q\x07Rq\x08"
      b"(K\x01K\x02M\x00\x0c\x86q\x09cnumpy\ndtype\nq\x0aU\x02u1q\x0bK\x00K"
      b"\x01\x87q\x0cRq\x0d(K\x03U\x01|q\x0eNNNJ\xff\xff\xff\xffJ\xff\xff\xff"
      b"\xffK\x00tq\x0fb\x89T" + size + rows + b"q\x10tq\x11bU\x06labelsq\x12"
      b"]q\x13(K" + b"K".join(digits) + b"eu."
    )  # fmt: skip
  check_cifar(image_files.load_images("cifar10", str(tmp_path)))


def test_what_was_looked_for_is_listed(tmp_path):
  with pytest.raises(ValueError, match=r"needs --data_dir.*got ''"):
    image_files.load_images("mnist", "")
  with pytest.raises(ValueError, match="got '/no/such'"):
    image_files.load_images("mnist", "/no/such")
  with pytest.raises(ValueError, match=r"no cifar10 .*data_batch_1\.bin") as e:
    image_files.load_images("cifar10", str(tmp_path))
  assert "\n" not in str(e.value)
  assert "cifar10.npz" in str(e.value)


def break_mnist(directory, change):
  write_mnist(directory)
  path = directory / "t10k-images-idx3-ubyte"
  path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda x: x[:-10], "is truncated: expected 2368 bytes, got 2358"),
    (lambda x: x + b"x", "is too long: expected 2368 bytes, got more"),
    (lambda x: b"", "must begin with 00 00 08.*got nothing"),
    (lambda x: x[:9], "must begin with 00 00 08.*got 00 00 08 03"),
    (lambda x: b"\0\0\x0d" + x[3:], "got 00 00 0d 03"),
    (lambda x: b"<html>", "got 3c 68 74 6d"),
    (lambda x: gzip.compress(x)[:-40], "damaged or truncated gzip file of"),
    (lambda x: idx(np.zeros((3, 27, 28), np.uint8)), r"wanted .* 28, 28, 1\]"),
    (lambda x: idx(np.zeros((2, 28, 28), np.uint8)), r"many labels; got \(2,"),
  ],
)
def test_a_damaged_idx_file_is_named(tmp_path, change, message):
  break_mnist(tmp_path, change)
  with pytest.raises(ValueError, match=f"t10k-images-idx3-ubyte.*{message}"):
    image_files.load_images("mnist", str(tmp_path))


def test_labels_must_be_digits(tmp_path):
  write_mnist(tmp_path)
  labels = np.array([0, 10, 1], np.uint8)
  (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
  with pytest.raises(
    ValueError, match=r"t10k-labels.* labels must be 0 to 9; got 0 to 10\."
  ):
    image_files.load_images("mnist", str(tmp_path))


def test_a_truncated_binary_batch_is_named(tmp_path):
  write_cifar_binary(tmp_path)
  path = tmp_path / "data_batch_3.bin"
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(
    ValueError, match=r"batch_3\.bin is truncated: expected 614"
  ):
    image_files.load_images("cifar10", str(tmp_path))


@pytest.mark.parametrize("change", [lambda x: x[:-99], lambda x: b"<html>"])
def test_a_truncated_python_batch_is_named(tmp_path, change):
  write_cifar_python(tmp_path)
  path = tmp_path / "data_batch_4"
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(ValueError, match="batch_4 is no whole python batch"):
    image_files.load_images("cifar10", str(tmp_path))


def test_a_truncated_npz_is_named(tmp_path):
  path = tmp_path / "mnist.npz"
  write_npz(path, *MNIST.values())
  path.write_bytes(path.read_bytes()[:-99])
  with pytest.raises(
    ValueError, match=r"mnist.npz \(.* cannot be read as an .npz"
  ):
    image_files.load_images("mnist", str(tmp_path))


def with_nan(images):
  images = images.astype(np.float32)
  images[0, 3, 4] = np.nan
  return images


IMAGES = r"wanted images of integers or real floats; got"
LABELS = r"wanted labels that are integers; got"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda x, y: (with_nan(x), y), "finite images; got nan in 1 of 2352 "),
    (lambda x, y: (x + np.inf, y), "finite images; got inf in 2352 of 2352 "),
    (lambda x, y: (x - np.inf, y), "finite images; got -inf in 2352 of"),
    (lambda x, y: (x * 0 + 1e39, y), r"finite images; got 1e\+39 in 2352 of"),
    (lambda x, y: (x + 0j, y), f"{IMAGES} complex128"),
    (lambda x, y: (x.astype(str), y), f"{IMAGES} <U3"),
    (lambda x, y: (x.astype("m8[s]"), y), f"{IMAGES} timedelta64"),
    (lambda x, y: (x > 0, y), f"{IMAGES} bool"),
    (lambda x, y: (x, y + np.nan), f"{LABELS} float64"),
    (lambda x, y: (x, y.astype(np.float32)), f"{LABELS} float32"),
    (lambda x, y: (x, y + 0j), f"{LABELS} complex128"),
    (lambda x, y: (x, y.astype(str)), f"{LABELS} <U3"),
    (lambda x, y: (x, y > 4), f"{LABELS} bool"),
    (lambda x, y: (x, y.astype(np.int8) - 10), "must be 0 to 9; got -"),
    (lambda x, y: (x, np.eye(10, dtype=int)[y]), r"many labels; .* \(3, 10\)"),
    (lambda x, y: (x, y[None]), r"many labels; got \(3, 28, 28\) .* \(1, 3\)"),
    (lambda x, y: (x, y[0]), r"many labels; got \(3, 28, 28\) and \(\)"),
    (lambda x, y: (x[0, 0, 0], y), r"wanted images .* got \(\) and \(3,\)"),
    (lambda x, y: (x[:0], y[:0]), r"wanted .* got \(0, 28, 28\) and \(0,\)"),
  ],
)
def test_what_cannot_be_learnt_from_is_refused(tmp_path, change, message):
  write_npz(tmp_path / "mnist.npz", MNIST["train"], change(*MNIST["test"]))
  with pytest.raises(ValueError, match=rf"mnist\.npz, x_test.*{message}") as e:
    image_files.load_images("mnist", str(tmp_path))
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, ">i4"])
@pytest.mark.parametrize("image_dtype", [np.float16, np.float64, ">i2"])
def test_real_images_and_integer_labels_are_read(tmp_path, image_dtype, dtype):
  parts = [(x.astype(image_dtype), y.astype(dtype)) for x, y in MNIST.values()]
  write_npz(tmp_path / "mnist.npz", *parts)
  check_mnist(image_files.load_images("mnist", str(tmp_path)))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda x, y: (x, ["a", "b"]), rf"{LABELS} \['str'\]"),
    (lambda x, y: (x, [b"1", 2]), rf"{LABELS} \['bytes'\]"),
    (lambda x, y: (x, [1, 2**70]), f"{LABELS} object"),
    (lambda x, y: (x, [1.0, np.nan]), f"{LABELS} float64"),
    (lambda x, y: (x, [1, 10]), "labels must be 0 to 9; got 1 to 10"),
    (lambda x, y: (x, 1), r"many labels; got \(2, 32, 32, 3\) and \(\)"),
    (lambda x, y: (x, y[:1]), r"many labels; got \(2, .* and \(1,\)"),
    (lambda x, y: (x.astype(str), y), f"{IMAGES} <U3"),
    (lambda x, y: (x + np.nan, y), "wanted finite images; got nan in 6144 of"),
    (lambda x, y: (x[:, 1:], y), r"wanted data .* got \(2, 3071\)"),
    (lambda x, y: (x[:1], y[:1]), r"wanted 2 records, .* got 1 .*2, 2, 1, 2"),
  ],
)
def test_an_unusual_python_batch_is_named(tmp_path, change, message):
  write_cifar_python(tmp_path)
  rows, labels = channels_first(CIFAR[2][0]), CIFAR[2][1].tolist()
  rows, labels = change(rows, labels)
  batch = pickle.dumps({b"data": rows, b"labels": labels}, 2)
  (tmp_path / "data_batch_3").write_bytes(batch)
  with pytest.raises(ValueError, match=f"data_batch_3: .*{message}") as e:
    image_files.load_images("cifar10", str(tmp_path))
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  ("records", "message"),
  [
    ((1, 2, 2, 2, 2), "batch_1.bin: wanted 2 records, .* got 1 "),
    ((2, 2, 1, 2, 2), "batch_3.bin: wanted 2 records, .* got 1 "),
    ((1, 1, 1, 1, 2), "batch_5.bin: wanted 1 records, .* got 2 "),
    ((1, 1, 2, 2, 0), "batch_5.bin is truncated: expected 3073 bytes, got 0"),
  ],
)
def test_a_binary_batch_cut_between_records_is_named(
  tmp_path, records, message
):
  write_cifar_binary(tmp_path)
  for name, count in zip(batch_names(".bin"), records, strict=False):
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: 3073 * count])
  with pytest.raises(ValueError, match=message) as e:
    image_files.load_images("cifar10", str(tmp_path))
  assert ("all batches: " in str(e.value)) == all(records)


def test_a_binary_label_beyond_9_names_its_own_file(tmp_path):
  write_cifar_binary(tmp_path)
  path = tmp_path / "data_batch_4.bin"
  path.write_bytes(b"\x0a" + path.read_bytes()[1:])
  with pytest.raises(
    ValueError, match=r"batch_4\.bin: labels must be 0 to 9; got 9 to 10"
  ):
    image_files.load_images("cifar10", str(tmp_path))


def test_the_test_batch_may_be_of_another_length(tmp_path):
  write_cifar_binary(tmp_path)
  path = tmp_path / "test_batch.bin"
  path.write_bytes(path.read_bytes()[:3073])
  found = image_files.load_images("cifar10", str(tmp_path))
  assert [len(part[1]) for part in found] == [10, 1]
