"""Flax linen: a sick model, its diagnosis, its cure, and some training.

python docs/examples/linen.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

import initjax


class Mlp(nn.Module):
  """Twelve layers of ReLU and a readout."""

  kernel_init: nn.initializers.Initializer

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, 16] -> [batch, 1]."""
    for _ in range(12):
      x = nn.relu(nn.Dense(64, kernel_init=self.kernel_init)(x))
    return nn.Dense(1)(x)


def losses(model: Mlp, variables: dict, x: jax.Array, y: jax.Array):
  """[100] of gradient descent."""
  loss = lambda variables: jnp.mean((model.apply(variables, x) - y) ** 2)

  def step(variables, _):
    value, gradient = jax.value_and_grad(loss)(variables)
    moved = jax.tree.map(lambda w, g: w - 0.03 * g, variables, gradient)
    return moved, value

  return jax.jit(lambda w: jax.lax.scan(step, w, length=100)[1])(variables)


def main() -> None:
  """Prints what is wrong, and the loss of both models before and after."""
  x = jax.random.normal(jax.random.key(1), (64, 16))
  y = jnp.sin(2 * x[:, :1])

  for name in ("xavier_normal", "he_normal"):
    model = Mlp(getattr(initjax.initializers, name)())
    variables = model.init(jax.random.key(0), x)
    report = initjax.diagnose(model, variables, x)
    print(f"{name}: {[verdict.kind for verdict in report.verdicts]}")
    values = losses(model, variables, x, y)
    print(f"  loss {values[0]:.3f}, after 100 updates {values[-1]:.3f}")


if __name__ == "__main__":
  main()
