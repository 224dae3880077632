"""Initial weights: pure functions `(key, shape, dtype, out_sharding) -> Array`.

Provides every name of `jax.nn.initializers`, with the same arguments and, for
the same key, the same float32, float64 and complex values, plus initializers
that JAX lacks. Arguments are checked on construction; the results plug into
Flax as `kernel_init` and work under `jit`, `vmap` and `eval_shape`.

>>> import jax
>>> init = he_normal()
>>> init(jax.random.key(0), (256, 512)).shape
(256, 512)
"""

from initjax.initializers._basic import (
  constant,
  normal,
  ones,
  ones_init,
  truncated_normal,
  uniform,
  uniform_between,
  zeros,
  zeros_init,
)
from initjax.initializers._fans import MODES, KernelAxes, Mode, fan, kernel_axes
from initjax.initializers._fused import blocks
from initjax.initializers._identity import dirac, eye, zero_hadamard
from initjax.initializers._orthogonal import delta_orthogonal, orthogonal
from initjax.initializers._recipes import (
  residual_normal,
  siren,
  sparse,
  torch_linear_bias,
  torch_linear_kernel,
)
from initjax.initializers._sampling import initializer
from initjax.initializers._variance_scaling import (
  activation_scaling,
  glorot_normal,
  glorot_uniform,
  he_normal,
  he_uniform,
  kaiming_normal,
  kaiming_uniform,
  lecun_normal,
  lecun_uniform,
  variance_scaling,
  xavier_normal,
  xavier_uniform,
)
from initjax.typing import Initializer

__all__ = [
  "Initializer",
  "activation_scaling",
  "blocks",
  "constant",
  "delta_orthogonal",
  "dirac",
  "eye",
  "glorot_normal",
  "glorot_uniform",
  "he_normal",
  "he_uniform",
  "kaiming_normal",
  "kaiming_uniform",
  "lecun_normal",
  "lecun_uniform",
  "normal",
  "ones",
  "ones_init",
  "orthogonal",
  "residual_normal",
  "siren",
  "sparse",
  "torch_linear_bias",
  "torch_linear_kernel",
  "truncated_normal",
  "uniform",
  "uniform_between",
  "variance_scaling",
  "xavier_normal",
  "xavier_uniform",
  "zero_hadamard",
  "zeros",
  "zeros_init",
]
