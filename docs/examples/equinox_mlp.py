"""Equinox: what its default weights do to a deep ReLU network, and the cure.

pip install equinox; python docs/examples/equinox_mlp.py
"""

import equinox as eqx
import jax

import initjax


def batched(mlp: eqx.nn.MLP, x: jax.Array) -> jax.Array:
  """Equinox modules act on one sample: [batch, 32] -> [batch, 4]."""
  return jax.vmap(mlp)(x)


def main() -> None:
  """Prints the diagnosis of the module before and after."""
  x = jax.random.normal(jax.random.key(1), (32, 32))
  key = jax.random.key(0)
  mlp = eqx.nn.MLP(32, 4, width_size=64, depth=6, key=key)
  print(initjax.diagnose(batched, mlp, x))

  mlp = initjax.auto_init(key, batched, mlp, x)
  print(initjax.diagnose(batched, mlp, x))


if __name__ == "__main__":
  main()
