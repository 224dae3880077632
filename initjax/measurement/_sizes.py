"""Size and similarity of one array of signals, for your own experiments."""

import jax
import jax.numpy as jnp


def log2_second_moment(x: jax.Array, axis: int | None = None) -> jax.Array:
  """Returns log₂ E[x²] over all axes but `axis`, without under- or overflow.

  The largest |x| is divided out before squaring, so float32 also handles
  signals of 1e-30; the result is -inf where all of x is 0.

  Args:
    x: of any shape and a real floating dtype.
    axis: the axis to keep, such as that of layers; None keeps no axis.

  >>> x = jnp.array([[2.0**-100, 2.0**-100], [4.0, 4.0]])
  >>> log2_second_moment(x, axis=0).tolist()
  [-200.0, 4.0]

  Reference: Blue 1978, "A portable Fortran program to find the Euclidean norm
  of a vector".
  """
  axes = tuple(i for i in range(x.ndim) if i != axis)
  size = jnp.max(jnp.abs(x), axis=axes, keepdims=True)
  scaled = x / jnp.where(size > 0, size, 1.0)
  shape = () if axis is None else scaled.shape[axis]
  return jnp.log2((scaled**2).mean(axes)) + 2 * jnp.log2(size).reshape(shape)


def correlation(samples: jax.Array) -> jax.Array:
  """Returns the mean cosine between different samples: 1 if all collapsed.

  With unit vectors u_a of N samples, it is (|Σ u_a|² - N)/(N(N - 1)). Samples
  that are exactly 0 have no direction and count as orthogonal to all others.

  Args:
    samples: [samples, features], at least two samples.

  >>> x = jnp.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
  >>> float(correlation(x))
  0.5

  Reference: Schoenholz et al. 2017, "Deep information propagation", §3.
  """
  size = jnp.max(jnp.abs(samples), axis=-1, keepdims=True)
  scaled = samples / jnp.where(size > 0, size, 1.0)
  lengths = jnp.linalg.norm(scaled, axis=-1, keepdims=True)
  units = scaled / jnp.where(lengths > 0, lengths, 1.0)
  count = len(samples)
  own = (lengths > 0).sum()
  return ((units.sum(0) ** 2).sum() - own) / (count * (count - 1))
