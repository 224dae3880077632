"""Files made to harm: nothing in them runs, and none exhausts the memory."""

import gzip
import os
import pickle
import re
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from image_files_test import (
  MNIST,
  break_mnist,
  idx,
  write_cifar_binary,
  write_cifar_python,
)

from experiments.data import image_files


class Harmful:
  def __reduce__(self):
    return os.mkdir, (self.path,)


def test_a_pickle_that_calls_something_else_is_refused(tmp_path):
  write_cifar_python(tmp_path)
  harmful = Harmful()
  harmful.path = str(tmp_path / "harm")
  (tmp_path / "data_batch_2").write_bytes(pickle.dumps(harmful, 2))
  with pytest.raises(
    ValueError, match=r"data_batch_2 .*asks for 'posix.mkdir'"
  ):
    image_files.load_images("cifar10", str(tmp_path))
  assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
  ("module", "name"),
  [
    ("numpy.f2py.__main__", "main"),  # exits the process when imported
    ("numpy.f2py.__main__", "dtype"),
    ("numpy.core.multiarray", "fromfile"),
    ("numpy", "_reconstruct"),
    ("numpy", "core.multiarray._reconstruct"),
    ("builtins", "eval"),
    ("numpy", "\x1b[2J"),
  ],
)
def test_a_pickle_may_ask_for_exact_names_only(tmp_path, module, name):
  write_cifar_python(tmp_path)
  texts = (
    struct.pack("<BB", 0x8C, len(x)) + x.encode() for x in (module, name)
  )
  asked = b"\x80\x04" + b"".join(texts) + b"\x93."  # STACK_GLOBAL
  (tmp_path / "data_batch_2").write_bytes(asked)
  with pytest.raises(ValueError, match=r"data_batch_2 .*it asks for '") as e:
    image_files.load_images("cifar10", str(tmp_path))
  assert str(e.value).isprintable()
  assert "numpy.f2py.__main__" not in sys.modules


def pickled_array(shape, code="u1", content=b"x", state=None):
  """As NumPy pickles an array, with whatever shape, type and flags."""

  class Type:
    def __reduce__(self):
      return np.dtype, (code, False, True), state

  class Array:
    def __reduce__(self):
      rebuild = np._core.multiarray._reconstruct
      new = rebuild, (np.ndarray, shape, b"b")
      return *new, (1, shape, Type(), False, content)

  return Array()


def nested(depth):
  """Ten lists of ten lists of ...: 10^depth entries in a few bytes."""
  found = [0] * 10
  for _ in range(depth):
    found = [found] * 10
  return found


@pytest.mark.parametrize(
  ("labels", "data", "message"),
  [
    (nested(12), 0, "batch .* no attribute '__array__'"),
    (nested(12), np.zeros((2, 3072)), r"that are integers; got \['list'\]"),
    (["x" * 10**6] * 10**4, np.zeros((2, 3072)), r"integers; got \['str'\]"),
    ([1, 2], nested(12), "no attribute '__array__'"),
    ([1, 2], pickled_array((10**15, 3072)), "cannot reshape array of size 1"),
    ([1, 2], pickled_array((2, 1), "O", [1]), "array of 'O'"),
    ([1, 2], pickled_array((2, 1), "V8", bytes(16)), "array of 'V8'"),
    ([1, 2], pickled_array((2, 1), "u1,O", bytes(16)), "array of 'u1,O'"),
  ],
)
def test_a_pickle_cannot_ask_for_more_than_it_holds(
  tmp_path, labels, data, message
):
  write_cifar_python(tmp_path)
  batch = pickle.dumps({b"data": data, b"labels": labels}, 2)
  (tmp_path / "data_batch_1").write_bytes(batch)
  with pytest.raises(ValueError, match=f"data_batch_1.*{message}"):
    image_files.load_images("cifar10", str(tmp_path))


def test_a_pickle_cannot_number_more_objects_than_it_has(tmp_path):
  """The table of 2^31 objects would be filled with zeros: 32 GiB."""
  write_cifar_python(tmp_path)
  content = b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b"."
  (tmp_path / "data_batch_1").write_bytes(content)
  with pytest.raises(ValueError, match="it numbers an object 2147483647"):
    image_files.load_images("cifar10", str(tmp_path))


def refusal(dataset, directory):
  """What is said of a file, by less memory than 2 MB."""
  tracemalloc.start()
  try:
    with pytest.raises(ValueError, match=str(directory)) as e:
      image_files.load_images(dataset, str(directory))
    assert tracemalloc.get_traced_memory()[1] < 2e6
  finally:
    tracemalloc.stop()
  assert str(e.value).isprintable()
  return str(e.value)


BOMB = 2**22


@pytest.mark.parametrize(
  ("header", "message"),
  [
    (
      idx(np.zeros((3, 28, 28), np.uint8))[:16],
      "expected 2368 bytes, got more",
    ),
    (b"", "must begin with 00 00 08"),
    (b"\0\0\x08\xff", "must begin with 00 00 08.* up to 3; got 00 00 08 ff"),
    (b"\0\0\x08\x03" + b"\xff" * 12, "expected at most 65536 bytes"),
    (b"\0\0\x08\x03" + b"\0" * 4 + b"\xff" * 8, "expected 16 bytes, got more"),
  ],
)
@pytest.mark.parametrize("pack", [gzip.compress, lambda content: content])
def test_no_more_of_a_file_is_read_than_it_says(
  tmp_path, monkeypatch, header, message, pack
):
  monkeypatch.setattr(image_files, "_MOST", 2**16)
  break_mnist(tmp_path, lambda x: pack(header + bytes(BOMB)))
  found = refusal("mnist", tmp_path)
  assert re.search(message, found), found


@pytest.mark.parametrize("write", [write_cifar_binary, write_cifar_python])
def test_no_more_of_a_batch_is_read_than_any_has(tmp_path, monkeypatch, write):
  monkeypatch.setattr(image_files, "_MOST", 2**16)
  write(tmp_path)
  path = sorted(tmp_path.glob("test_batch*"))[0]
  path.write_bytes(gzip.compress(path.read_bytes() + bytes(BOMB)))
  assert "at most 65536 bytes, got more" in refusal("cifar10", tmp_path)


@pytest.mark.parametrize(
  ("pack", "message"),
  [
    (zipfile.ZIP_STORED, "x_test has 4194432 bytes; wanted at most 65536 "),
    (zipfile.ZIP_DEFLATED, "x_test has 4194432 bytes; wanted at most 65536 "),
    (zipfile.ZIP_BZIP2, "x_train is packed as NumPy packs nothing"),
    (zipfile.ZIP_LZMA, "x_train is packed as NumPy packs nothing"),
  ],
)
def test_no_more_of_an_archive_is_unpacked(
  tmp_path, monkeypatch, pack, message
):
  monkeypatch.setattr(image_files, "_MOST", 2**16)
  arrays = dict(zip(("x_train", "y_train"), MNIST["train"], strict=True))
  arrays |= {"y_test": MNIST["test"][1], "x_test": np.zeros(BOMB, np.uint8)}
  with zipfile.ZipFile(tmp_path / "mnist.npz", "w", pack) as archive:
    for name, array in arrays.items():
      with archive.open(f"{name}.npy", "w") as file:
        np.lib.format.write_array(file, array)
  assert message in refusal("mnist", tmp_path)


@pytest.mark.parametrize("shape", ["(1000000000000000,)", "1," * 9000])
def test_a_header_of_an_archive_that_lies_is_told_in_a_line(tmp_path, shape):
  header = f"{{'descr': '<u8', 'fortran_order': False, 'shape': {shape}}}\n"
  content = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode()
  with zipfile.ZipFile(tmp_path / "mnist.npz", "w") as archive:
    archive.writestr("../../x_train.npy", content)
    archive.writestr("x_train.npy", content)
  found = refusal("mnist", tmp_path)
  assert "cannot be read as an .npz" in found
  assert len(found) < 500
