"""Microsoft's mup 1.0.0 (PyPI, PyTorch): effective values equal ours.

Its MuReadout multiplies by m = 1/width_mult in the forward pass, and its
transformers have 1/d attention, m = √(d₀/d) more than 1/√d, on queries. What
acts is std·m, Adam·m and SGD·m²; ours have no multiplier to count. Recorded,
and recorded again where the peer is installed.
"""

import functools
import json
import pathlib

import jax
import pytest
import scaled_models as models

import initjax

RECORD = pathlib.Path(__file__).parent / "reference_mup.json"
WIDTHS = ((64, 16), (96, 32))
LAYERS = ("q", "k", "v", "o", "up", "down")


def cnn(params, x):
  conv = lambda x, w: jax.lax.conv_general_dilated(
    x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  h = jax.nn.relu(conv(jax.nn.relu(conv(x, params["in"])), params["hidden"]))
  return h.mean((1, 2)) @ params["out"]


def cnn_shapes(n):
  sizes = {"in": (3, 3, 3, n), "hidden": (3, 3, n, 2 * n), "out": (2 * n, 5)}
  return {name: models.shape(*size) for name, size in sizes.items()}


def gpt_shapes(n):
  return models.gpt_shapes(n, layers=1)


MODELS = {
  "mlp": (models.mlp, models.mlp_shapes, models.X),
  "cnn": (cnn, cnn_shapes, models.shape(2, 8, 8, 3)),
  "gpt": (models.gpt, gpt_shapes, models.TOKENS),
}


def torch_model(name, n):
  """The same leaves, as torch and mup have them; nothing is run."""
  import mup
  import torch

  linear = functools.partial(torch.nn.Linear, bias=False)
  readout = functools.partial(mup.MuReadout, bias=False)
  if name == "mlp":
    layers = {"in": linear(3, n), "hidden": linear(n, n), "out": readout(n, 2)}
  elif name == "cnn":
    conv = functools.partial(torch.nn.Conv2d, kernel_size=3, bias=False)
    layers = {"in": conv(3, n), "hidden": conv(n, 2 * n)}
    layers["out"] = readout(2 * n, 5)
  else:
    sizes = {"up": (n, 4 * n), "down": (4 * n, n)}
    layers = {p: linear(*sizes.get(p, (n, n))) for p in LAYERS}
    layers["embed"] = torch.nn.Embedding(models.VOCABULARY, n)
    layers["out"] = readout(n, models.VOCABULARY)
  for key, layer in layers.items():  # LeCun's std, without chance
    fan_in = 1 if key == "embed" else layer.weight[0].numel()
    torch.nn.init.constant_(layer.weight, fan_in**-0.5)
  return torch.nn.ModuleDict(layers)


def rates(optimizer, model):
  """By name, of SGD or Adam with a rate of 1."""
  groups = optimizer(model.parameters(), lr=1.0).param_groups
  by_id = {id(p): g["lr"] for g in groups for p in g["params"]}
  return {name: by_id[id(layer.weight)] for name, layer in model.items()}


def recorded(name, wide, base):
  """{leaf: [std·m, Adam·m, SGD·m²]} against the base."""
  import mup

  model = torch_model(name, wide)
  before = torch_model(name, base)
  mup.set_base_shapes(model, before, delta=torch_model(name, 2 * base))
  adam, sgd = rates(mup.MuAdam, model), rates(mup.MuSGD, model)
  found = {}
  for key, layer in model.items():
    is_readout = isinstance(layer, mup.MuReadout)
    m = 1 / layer.width_mult() if is_readout else 1.0
    m = (base / wide) ** 0.5 if key == "q" else m
    mean = layer.weight.mean() / before[key].weight.mean()
    found[key] = [mean.item() * m, adam[key] * m, sgd[key] * m**2]
  return found


def key_of(name, wide, base):
  return f"{name} {wide} from {base}"


CASES = [(name, *widths) for name in MODELS for widths in WIDTHS]


@pytest.mark.parametrize("case", CASES)
def test_effective_values_are_those_of_mup(case):
  name, wide, base = case
  fn, shapes, x = MODELS[name]
  plan = initjax.mup(fn, shapes(wide), x, base=(fn, shapes(base), x))
  expected = json.loads(RECORD.read_text())[key_of(*case)]
  for leaf, values in expected.items():
    row = plan[leaf if leaf not in LAYERS else f"blocks/0/{leaf}"]
    c = row.absorbed
    found = [row.init * c, row.adam * c, row.sgd * c**2]
    # torch has its weights in float32
    assert found == pytest.approx(values, rel=1e-6), leaf


@pytest.mark.slow
def test_what_was_recorded_is_what_mup_says():
  pytest.importorskip("torch")
  pytest.importorskip("mup")
  known = json.loads(RECORD.read_text())
  for case in CASES:
    for leaf, values in recorded(*case).items():
      assert known[key_of(*case)][leaf] == pytest.approx(values, rel=1e-6)
