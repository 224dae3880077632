"""No two rows of a table read alike, however narrow it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initjax import reports
from initjax.reports._names import crops, short_paths

ATTENTION = ("q", "k", "v", "o")
T5 = [
  f"{side}/block/{block}/layer/{layer}/{attention}/{name}/kernel"
  for side, layers in (
    ("encoder", ["SelfAttention"]),
    ("decoder", ["SelfAttention", "EncDecAttention"]),
  )
  for block in range(3)
  for layer, attention in enumerate(layers)
  for name in ATTENTION
]
BERT = [
  f"bert/encoder/layer/{layer}/{name}/kernel"
  for layer in range(3)
  for name in (
    *(f"attention/self/{part}" for part in ("query", "key", "value")),
    "attention/output/dense",
    "intermediate/dense",
    "output/dense",
  )
] + ["bert/pooler/dense/kernel"]
HAIKU = [
  f"transformer/h{layer}_{name}/w"
  for layer in range(2)
  for name in (
    *(f"attn/{part}" for part in ("query", "key", "value", "linear")),
    *(f"mlp/linear{number}" for number in ("", "_1")),
  )
]
FLAX = [
  f"params/{side}_{block}/{part}/{name}/kernel"
  for side in ("EncoderBlock", "DecoderBlock")
  for block in (0, 10)
  for part in ("SelfAttention_0", "SelfAttention_1", "MlpBlock_0")
  for name in ("query", "key", "Dense_0")
]
MODELS = {"t5": T5, "bert": BERT, "haiku": HAIKU, "flax": FLAX}


def records(paths):
  numbers = dict.fromkeys(("mean", "size", "largest", "zeros"), 1e6)
  moments = {"log2_second_moment": -123.45, "nonfinite": 0.0} | numbers
  both = {
    f"{way}_{name}": value
    for way in ("forward", "backward")
    for name, value in moments.items()
  }
  fans = {"fan_in": 1024, "fan_out": 4096, "fed_by": "gelu_tanh(a)·b"}
  theory = {"forward_predicted": -1.0, "backward_predicted": -1.0}
  row = {"kind": "dot", "repeat": (), **fans, **both, **theory}
  return [{"path": path, **row} for path in paths]


@pytest.mark.parametrize("paths", MODELS.values(), ids=MODELS)
def test_rows_of_models_have_different_texts(paths):
  """At each width that a column of names may have, and in whole tables."""
  names = list(short_paths(paths).values())
  for width in range(10, 60):
    texts = crops(names, width)
    assert list(texts) == names
    assert len(set(texts.values())) == len(names)
    assert max(map(len, texts.values())) <= width
  for width in range(60, 101, 5):
    for start in range(0, len(paths), 12):  # so few are never folded
      part = records(paths[start : start + 12])
      lines = reports.to_text(part, [], width=width).splitlines()
      rows = [line for line in lines if "-123.45" in line]
      if not any("signal" in row for row in rows):  # else it is a list
        assert len({row.split()[0] for row in rows}) == len(part), lines


@pytest.mark.parametrize(
  ("names", "width", "texts"),
  [
    (
      ["net/block/0/layer/q", "net/block/1/layer/q"],
      13,
      ["net/…/0/…/q", "net/…/1/…/q"],
    ),
    (
      ["encoder/attention/out", "encoder/intermediate/out"],
      15,
      ["encoder/at…/out", "encoder/in…/out"],
    ),
    (
      ["a/linear_transition_10/w", "a/linear_transition_11/w"],
      13,
      ["a/linea…_10/w", "a/linea…_11/w"],
    ),
  ],
)
def test_what_differs_is_kept(names, width, texts):
  assert list(crops(names, width).values()) == texts


def test_what_is_alone_is_cropped_as_before():
  names = ["Block_3/SelfAttention_0/query", "Block_3/SelfAttention_0/key"]
  assert crops(names, 16)[names[0]] == "Block_3/…/query"
  assert crops(names, 40) == {name: name for name in names}


@given(
  st.lists(st.text("ab/_01", min_size=1, max_size=30), max_size=12),
  st.integers(4, 40),
)
def test_any_names_are_told_apart(names, width):
  texts = crops(names, width)
  assert set(texts) == set(names)
  assert len(set(texts.values())) == len(texts)
  assert all(len(text) <= width for text in texts.values())


def test_what_shares_a_short_name_keeps_its_last_key_and_no_more():
  paths = ["params/Dense_0/kernel", "params/Dense_0/weight", "params/a/kernel"]
  names = ["Dense_0/kernel", "Dense_0/weight", "a"]
  assert list(short_paths(paths).values()) == names
