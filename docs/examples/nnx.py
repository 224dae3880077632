"""Flax NNX: initialize a convolutional model by its true fans, and check it.

python docs/examples/nnx.py
"""

import jax
from flax import nnx

import initjax


class Grouped(nnx.Module):
  """A grouped and a depthwise convolution: shapes do not tell their fans."""

  def __init__(self, rngs: nnx.Rngs) -> None:
    he = initjax.initializers.he_normal()
    options = {"rngs": rngs, "kernel_init": he, "padding": "CIRCULAR"}
    self.first = nnx.Conv(8, 64, (3, 3), **options)
    self.grouped = nnx.Conv(64, 64, (3, 3), feature_group_count=8, **options)
    self.depthwise = nnx.Conv(64, 64, (3, 3), feature_group_count=64, **options)
    self.readout = nnx.Linear(64, 10, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, 8] -> logits [batch, 10]."""
    h = nnx.relu(self.first(x))
    h = nnx.relu(self.grouped(h))
    h = nnx.relu(self.depthwise(h))
    return self.readout(h.mean((1, 2)))


def main() -> None:
  """Prints the fans, the plan, and what is left to find."""
  x = jax.random.normal(jax.random.key(1), (16, 8, 8, 8))
  model = Grouped(nnx.Rngs(0))
  for op in initjax.signal_graph(model, x):
    print(f"{op.path}: fan_in {op.fan_in:g}, fan_out {op.fan_out:g}")
  print(initjax.plan_init(model, x))

  model = initjax.auto_init(jax.random.key(0), model, x)
  model, info = initjax.calibrate(model, x)
  print(info)
  print(initjax.diagnose(model, x))


if __name__ == "__main__":
  main()
