"""Kernels in sums that are written by hand, and parameters not followed.

Fans are counted in Jacobians: of an output the inputs that it depends on, of an
input the outputs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback, sparse
from small_models import KEY, normal

import initjax
from initjax.graph import signal_graph

X = normal(4, 8)
W = normal(5, 8)
IMAGES = normal(2, 6, 6, 4)
OUT = jax.ShapeDtypeStruct((4, 5), jnp.float32)
BACK = jnp.array([[row, (3 * row + 1) % 8] for row in range(8)])


def along_the_first(w, x):
  fft = lambda z: jnp.fft.rfft(z, axis=0)
  return jnp.fft.irfft(fft(w) * fft(x), axis=0)


def circular(w, x, size=None):
  fft = lambda z: jnp.fft.rfft(z, n=size)
  return jnp.fft.irfft(fft(x) * fft(w), n=size)[..., : x.shape[-1]]


SUMS = {
  "product": (lambda w, x: (w * x[..., None, :]).sum(-1), W),
  "transposed": (lambda w, x: (x[..., None] * w.T).sum(-2), W),
  "mean": (lambda w, x: (x[:, None] * w).mean(-1), W),
  "scaled": (lambda w, x: (0.5 * (x[:, None] * w) / 3).sum(-1), W),
  "readout": (lambda w, x: (x * w).sum(-1), W[0]),
  "one sample": (lambda w, x: (w * x[0]).sum(), W[0]),
  "vmap": (lambda w, x: jax.vmap(lambda x: (w * x).sum(-1))(x), W),
  "jit": (lambda w, x: jax.jit(lambda z: z.sum(-1))(w * x[:, None]), W),
  "by channel": (
    lambda w, x: (x.reshape(4, 2, 4) * w.reshape(2, 4)).sum(-1),
    W[0],
  ),
  "of spectra": (circular, W[0]),
  "padded": (lambda w, x: circular(w, x, 16), W[0, :3]),
  "along the first axis": (along_the_first, W[:4]),
  "computed": (lambda w, x: circular(jnp.exp(w), x, 16), W[0]),
}


@pytest.mark.parametrize(("model", "w"), SUMS.values(), ids=SUMS)
def test_fans_of_a_sum_are_those_of_its_jacobian(model, w):
  (op,) = signal_graph(model, w, X).ops
  seen = jax.jit(jax.jacfwd(lambda x: model(w, x)))(X)
  count = (abs(np.asarray(seen)) > 1e-6).reshape(-1, X.size)
  assert (op.kind, op.path) == ("dot", ".")
  assert op.fan_in == count.sum(axis=1).max()
  fed = count.sum(axis=0)
  assert op.fan_out == fed[fed > 0].max()


def by_hand(params, x):
  h = (params["a"] * x[:, None, :]).sum(-1)
  h = (jax.nn.relu(h)[..., None] * params["b"] / 3).sum(-2)
  layer = lambda h, w: ((jnp.tanh(h)[:, None] * w).sum(-1), None)
  h, _ = jax.lax.scan(layer, h, params["c"])
  return (h * params["d"]).sum(-1)


def by_products(params, x):
  h = jax.nn.relu(x @ params["a"].T) @ (params["b"] / 3)
  layer = lambda h, w: (jnp.tanh(h) @ w.T, None)
  h, _ = jax.lax.scan(layer, h, params["c"])
  return h @ params["d"]


def test_a_sum_is_read_as_the_product_that_it_is():
  shapes = {"a": (6, 8), "b": (6, 7), "c": (3, 7, 7), "d": (7,)}
  params = {path: normal(*shape) for path, shape in shapes.items()}
  rows = [
    initjax.measure(model, params, X, detail=True).to_records()
    for model in (by_hand, by_products)
  ]
  assert len(rows[0]) == len(rows[1]) == 6
  for one, other in zip(*rows, strict=True):
    assert one.keys() == other.keys()
    for name, value in one.items():
      if name.endswith("zeros"):
        continue  # two terms that cancel leave 0, or a rounding error
      if isinstance(value, float):
        np.testing.assert_allclose(value, other[name], 1e-4, 1e-5, err_msg=name)
      else:
        assert value == other[name], name
  for verb in (
    lambda model: initjax.calibrate(model, params, X)[0],
    lambda model: initjax.auto_init(KEY, model, params, X),
  ):
    given, wanted = verb(by_hand), verb(by_products)
    for path, leaf in given.items():
      size, other = (np.linalg.norm(x) for x in (leaf, wanted[path]))
      np.testing.assert_allclose(size, other, rtol=1e-4, err_msg=path)
  calibrated, _ = initjax.calibrate(by_hand, params, X)
  assert abs(jnp.mean(by_hand(calibrated, X) ** 2) - 1) < 1e-5


def test_a_circular_convolution_is_drawn_for_unit_variance():
  """Σ_k w_k x_{t-k} of 64 terms: over draws E[y²] = 64·Var(w)."""
  x = normal(256, 64)
  report = initjax.diagnose(circular, normal(64), x)
  (row,) = report.to_records()
  assert (row["fan_in"], report.graph.ops[0].origin) == (64, "derived")
  plan = initjax.plan_init(circular, normal(64), x)
  (planned,) = plan.rows
  assert "computed from parameters" in planned.why
  draws = normal(2000, 64, variance=planned.std**2)
  sizes = jax.vmap(lambda w: jnp.mean(circular(w, x) ** 2))(draws)
  error = 4 * sizes.std() / 2000**0.5
  assert abs(sizes.mean() - np.mean(x**2)) < error


# What is not followed


def shifts(w, x):
  padded = jnp.pad(x, ((0, 0), (2, 0)))
  return sum(w[k] * padded[:, k : k + 8] for k in range(3))


def convolved(x, w):
  def one(x, w):
    return jax.lax.conv_general_dilated(
      x[None], w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]

  return jax.vmap(one)(x, w)


def modulated(w, x):
  own = w * jnp.tanh(x.mean((1, 2)))[:, None, None, :, None]
  size = jnp.square(own).sum((1, 2, 3), keepdims=True)
  return convolved(x, own * jax.lax.rsqrt(size + 1e-6))


def dynamic(w, x):
  share = jax.nn.softmax(x.mean((1, 2)))
  return convolved(x, (share[..., None, None, None, None] * w).sum(1))


def called_back(call):
  host = lambda w, x: np.asarray(x) @ np.asarray(w).T
  return lambda w, x: call(host, OUT, w, x)


KERNELS = normal(3, 3, 4, 5)
NOT_FOLLOWED = {
  "triangular": (
    lambda w, x: jax.scipy.linalg.solve_triangular(w, x.T),
    normal(8, 8),
    X,
    "triangular_solve",
  ),
  "by shifts": (shifts, normal(3), X, "mul"),
  "by rolls": (
    lambda w, x: w[0] * x + w[1] * jnp.roll(x, 1) - w[2] * jnp.roll(x, 2),
    normal(3, 8),
    X,
    "mul",
  ),
  "modulated": (modulated, KERNELS, IMAGES, "mul"),
  "dynamic": (dynamic, normal(4, 3, 3, 4, 5), IMAGES, "conv_general_dilated"),
  "sparse": (
    lambda w, x: x @ sparse.BCOO((w, BACK), shape=(8, 8)),
    normal(8),
    X,
    "bcoo_dot_general",
  ),
  "scattered": (
    lambda w, x: jnp.zeros((8, 4)).at[BACK[:, 1]].add(w[:, None] * x.T),
    normal(8),
    X,
    "mul",
  ),
  "in the spectrum": (
    lambda w, x: jnp.fft.irfft(w * jnp.fft.rfft(x)),
    normal(5),
    X,
    "mul",
  ),
  "callback": (called_back(jax.pure_callback), W, X, "pure_callback"),
  "callback in order": (called_back(io_callback), W, X, "io_callback"),
  "distances": (
    lambda w, x: jnp.exp(-jnp.square(x[:, None] - w).sum(-1)),
    W,
    X,
    "sub",
  ),
  "tropical": (lambda w, x: (x[:, None] + w).max(-1), W, X, "add"),
  "running": (lambda w, x: jnp.cumsum(w * x, axis=-1), W[0], X, "mul"),
  "masked": (
    lambda w, x: (w * x * (np.arange(8) < 4)).sum(-1),
    W[0],
    X,
    "mul",
  ),
  "of one input": (lambda w, x: jnp.sin(x[:, :1] * w), W[0], X, "mul"),
  "frequencies": (
    lambda w, x: jnp.concatenate([x, jnp.sin(x[:, :1] * w)], -1) @ np.eye(16),
    W[0],
    X,
    "mul",
  ),
}


@pytest.mark.parametrize(
  ("model", "w", "x", "primitive"), NOT_FOLLOWED.values(), ids=NOT_FOLLOWED
)
def test_a_kernel_that_is_not_followed_is_named(model, w, x, primitive):
  graph = signal_graph(model, w, x)
  assert graph.not_followed == {".": primitive}
  assert graph.elementwise == graph.unused == ()


class Normalized(nn.Module):
  """Each of them before a product of itself with itself, and before another."""

  @nn.compact
  def __call__(self, x):
    x = x + self.param("positions", nn.initializers.normal(), x.shape[1:])
    for norm in (nn.LayerNorm(use_bias=False), nn.LayerNorm(), nn.RMSNorm()):
      x = norm(x)
      x = jnp.einsum("btd,bsd,bse->bte", x, x, x)
    x = nn.LayerNorm(reduction_axes=(1, 2), feature_axes=(1, 2))(x)
    x = nn.PReLU()(nn.GroupNorm(2)(x))
    x = nn.BatchNorm(use_running_average=False)(x)
    gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],))
    return x + gamma * nn.Dense(x.shape[-1])(x)


LOSSES = {
  "outputs": lambda y: y,
  "mean": jnp.mean,
  "squares": lambda y: jnp.mean((y - 1) ** 2),
  "pooled": lambda y: y.mean(1),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_biases_and_scales_stay(loss):
  module, x = Normalized(), normal(3, 5, 8)
  variables = jax.jit(module.init)(KEY, x)

  def model(variables, x):
    y, _ = module.apply(variables, x, mutable=["batch_stats"])
    return loss(y)

  graph = signal_graph(model, variables, x)
  assert graph.not_followed == {}
  assert [op.path for op in graph] == ["params/Dense_0/kernel"]
  assert len(graph.elementwise) == len(jax.tree.leaves(variables)) - 1


STAY = {
  "a loss of scaled outputs": lambda w, x: (w * x).sum(),
  "a norm's own mean": lambda w, x: jax.nn.standardize(w * x),
  "another axis": lambda w, x: (w * x).sum(0),
  "mixed": lambda w, x: w[0] * x + w[1] * jnp.tanh(x),
  "shifted": lambda w, x: x * w + jnp.roll(x, 1, 0) * (1 - w),
  "joined": lambda w, x: jnp.concatenate([jnp.tile(w, (len(x), 1)), x], 1),
  "placed": lambda w, x: x.at[0].set(w),
  "added": lambda w, x: x.at[0].add(w),
  "positions": lambda w, x: jnp.tanh(x[:, :1] + w).sum(),
}


@pytest.mark.parametrize("model", STAY.values(), ids=STAY)
def test_other_uses_stay_elementwise(model):
  graph = signal_graph(model, W[0], X)
  assert (graph.elementwise, graph.not_followed) == ((".",), {})


_BY_ENTRY = {  # by `einsum`, by hand
  "scale": (
    lambda p, h: jnp.einsum("btd,d->btd", h, p["scale"]),
    lambda p, h: h * p["scale"],
  ),
  "scale of heads": (
    lambda p, h: jnp.einsum("h,bthe->bhte", p["heads"], h.reshape(2, 3, 4, 2)),
    lambda p, h: (h.reshape(2, 3, 4, 2) * p["heads"][:, None]).swapaxes(1, 2),
  ),
  "gate": (
    lambda p, h: jnp.einsum("btd,btd->tbd", h, jnp.tanh(h @ p["gate"])),
    lambda p, h: (h * jnp.tanh(h @ p["gate"])).swapaxes(0, 1),
  ),
}


@pytest.mark.parametrize("name", _BY_ENTRY)
def test_a_product_without_a_sum_scales_entries(name):
  """It is what `*` is: no kernel, and its signal is followed through it."""
  params = {"first": normal(8, 8), "gate": normal(8, 8), "last": normal(2, 8)}
  params |= {"scale": normal(8), "heads": normal(4)}
  graphs = [
    signal_graph(
      lambda p, x, by=by: by(p, x @ p["first"]).reshape(-1, 2) @ p["last"],
      params,
      normal(2, 3, 8),
    )
    for by in _BY_ENTRY[name]
  ]
  einsum, star = (
    [(op.path, op.fan_in, op.fan_out, op.reason, op.source) for op in graph]
    for graph in graphs
  )
  assert einsum == star
  assert graphs[0].elementwise == graphs[1].elementwise
