"""Records and verdicts as `diagnose` gives them, made by hand."""

import math

from initjax.typing import Verdict


def record(
  path="params/Dense_0/kernel",
  repeat=(),
  *,
  signal=0.0,
  gradient=0.0,
  **more,
):
  """One row; a size of None means not run."""
  row = {
    "path": path,
    "repeat": repeat,
    "kind": "dot",
    "fan_in": 512,
    "fan_out": 512,
    "fed_by": "relu",
  }
  for direction, bits in (("forward", signal), ("backward", gradient)):
    entries = 0.0 if bits is None else 4096.0
    row[f"{direction}_mean"] = 0.0
    row[f"{direction}_log2_second_moment"] = 0.0 if bits is None else bits
    row[f"{direction}_largest"] = 1.0
    row[f"{direction}_zeros"] = entries if bits == -math.inf else 0.0
    row[f"{direction}_nonfinite"] = (
      entries if bits is not None and math.isnan(bits) else 0.0
    )
    row[f"{direction}_size"] = entries
  return row | more


def exploding_mlp(depth=100):
  """Grows by 0.9 bits a layer, forward and backward."""
  rows = []
  for layer in range(depth):
    width = 3 * math.sqrt(0.014 * layer)
    rows.append(
      record(
        f"params/Dense_{layer}/kernel",
        signal=0.9 * layer,
        gradient=0.9 * (depth - 1 - layer),
        fan_in=512 if layer else 784,
        fed_by="relu" if layer else "input",
        forward_band=(-width, width),
        backward_band=(-width, width),
      )
    )
  verdict = Verdict(
    "exploding signal",
    "error",
    "",
    f"The second moment grows by 1.87 per layer, 2^{0.9 * depth:.0f} in all.",
    "nn.Dense(512, kernel_init=initjax.initializers.kaiming_normal())",
    tuple(range(4, depth)),
  )
  return rows, [verdict]


def transformer(blocks=24):
  """Six operations in each block, between an embedding and a head."""
  rows = [record("params/Embed_0/embedding", fan_in=1)]
  names = {
    "SelfAttention_0/query": "normalization",
    "SelfAttention_0/key": "normalization",
    "SelfAttention_0/value": "normalization",
    "SelfAttention_0/out": "softmax",
    "MlpBlock_0/Dense_0": "normalization",
    "MlpBlock_0/Dense_1": "gelu",
  }
  for block in range(blocks):
    for name, fed_by in names.items():
      rows.append(
        record(
          f"params/Block_{block}/{name}/kernel",
          gradient=0.2 * block - 10,
          fan_in=2048 if fed_by == "gelu" else 512,
          fed_by=fed_by,
          draws=8,
          forward_log2_second_moment_std=0.05,
          backward_log2_second_moment_std=0.3,
          dead_units=50.0,
          units=512.0,
          saturation=0.05,
          correlation=0.95,
        )
      )
  rows.append(record("params/head/kernel", fan_out=50257))
  fix = "# scale the branches:\nkernel_init=residual_normal(num_branches=48)"
  path = rows[-2]["path"]
  verdict = Verdict("rank collapse", "warning", path, "Alike.", fix, (20, 30))
  return rows, [verdict]


def dying_scan(repeats=50):
  """Two operations a repeat; the signal dies, the gradient never arrives."""
  rows = [
    record(
      f"params/ScanBlock_0/{name}/kernel",
      (repeat,),
      signal=-3.0 * repeat if repeat < repeats - 10 else -math.inf,
      gradient=math.nan,
    )
    for repeat in range(repeats)
    for name in ("Dense_0", "Dense_1")
  ]
  rows.append(record("params/aux/kernel", signal=None, gradient=None))
  path = rows[0]["path"]
  first = 2 * (repeats - 10)
  verdict = Verdict("underflow", "error", path, "Exactly 0.", "", (first,))
  return rows, [verdict]


MODELS = {
  "exploding_mlp": exploding_mlp(),
  "transformer": transformer(),
  "dying_scan": dying_scan(),
  "one_row": ([record()], []),
  "nothing": ([], []),
}
