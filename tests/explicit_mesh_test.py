"""Where shardings are types, every verb gives what it gives on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import normal

import initjax

P = jax.sharding.PartitionSpec
EXPLICIT = jax.sharding.AxisType.Explicit
DATA, BOTH = [(8, "data")], [(4, "data"), (2, "model")]
KEY = jax.random.key(1)


def replicated(kernel):
  """Whole on each device, if there is a mesh."""
  empty = jax.sharding.get_abstract_mesh().empty
  return kernel if empty else jax.reshard(kernel, P())


def spec(*axes):
  """Of an output, if there is a mesh."""
  empty = jax.sharding.get_abstract_mesh().empty
  return None if empty else P(*axes)


def mlp(params, x):
  return jax.nn.relu(x @ params["a"] + params["bias"]) @ params["b"]


def loss(params, x):
  return jnp.mean(mlp(params, x) ** 2)


def gathers_first(params, x):
  """Fully sharded: two kernels in one leaf, and one that is transposed."""
  left, right = jnp.split(replicated(params["a"]), 2, axis=1)
  h = jnp.tanh(x @ left) * (x @ right)
  return h @ replicated(params["b"]).T


def tensor_parallel(params, x):
  h = jax.nn.relu(jnp.einsum("bd,df->bf", x, params["a"]) + params["bias"])
  out = {"out_sharding": spec("data")}
  return jnp.einsum("bf,fo->bo", h, params["b"], **out)


def embeds(params, ids):
  h = params["table"].at[ids].get(out_sharding=spec("data"))
  layer = lambda h, _: (jnp.tanh(h @ params["b"]), None)
  return jax.lax.scan(layer, h, None, length=3)[0]


PARAMS = {"a": normal(16, 32) / 4, "b": normal(32, 8) / 32**0.5}
BIASED = {**PARAMS, "bias": normal(32) / 10}
GATHERED = {"a": PARAMS["a"], "b": normal(8, 16) / 4}
TABLE = {"table": normal(16, 8), "b": normal(8, 8) / 8**0.5}
X, IDS = normal(8, 16), jnp.arange(8) * 2
MODELS = {
  "data": (mlp, BIASED, dict.fromkeys(BIASED, P()), X, DATA),
  "loss": (loss, BIASED, dict.fromkeys(BIASED, P()), X, DATA),
  "fully sharded": (
    gathers_first,
    GATHERED,
    {"a": P(None, "data"), "b": P("data")},
    X,
    DATA,
  ),
  "tensor": (
    tensor_parallel,
    BIASED,
    {"a": P(None, "model"), "b": P("model"), "bias": P("model")},
    X,
    BOTH,
  ),
  "embedding": (embeds, TABLE, dict.fromkeys(TABLE, P()), IDS, DATA),
}


def moments(report):
  return [row.log2_second_moment for row in (*report.forward, *report.backward)]


def measured(fn, params, x):
  """Step by step, and compiled with a cotangent that is given."""
  run = functools.partial(initjax.measure, fn)
  shape = jax.eval_shape(fn, params, x).shape
  given = {"cotangent": np.ones(shape, np.float32)} if shape else {}
  compiled = jax.jit(functools.partial(run, **given))
  return [
    moments(r) for r in (run(params, x, detail=True), compiled(params, x))
  ]


def spectrum(fn, params, x):
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return None
  return initjax.jacobian_spectrum(fn, params, x).mean


def calibrated(fn, params, x):
  params, info = initjax.calibrate(fn, params, x)
  return params, [op.factor for op in info.operations]


def graph(fn, params, x):
  ops = initjax.signal_graph(fn, params, x)
  return [(op.fan_in, op.fan_out) for op in ops]


def diagnosed(fn, params, x):
  report = initjax.diagnose(fn, params, x)
  return moments(report), len(report.verdicts)


def compiled(fn, params, x):
  return moments(jax.jit(functools.partial(initjax.measure, fn))(params, x))


VERBS = {
  "graph": graph,
  "compiled": compiled,
  "measure": measured,
  "gradients": lambda *model: initjax.measure_and_grad(*model).gradients,
  "diagnose": diagnosed,
  "predict": lambda *model: initjax.predict(*model)[:2],
  "spectrum": spectrum,
  "auto_init": functools.partial(initjax.auto_init, KEY),
  "orthogonal": functools.partial(
    initjax.auto_init, KEY, distribution="orthogonal"
  ),
  "calibrate": calibrated,
}


def check(model, verb):
  fn, params, specs, x, mesh = MODELS[model]
  wanted = jax.device_get(VERBS[verb](fn, params, x))
  shape, names = zip(*mesh, strict=True)
  mesh = jax.make_mesh(shape, names, axis_types=(EXPLICIT,) * len(shape))
  with jax.set_mesh(mesh):
    params = {k: jax.device_put(params[k], specs[k]) for k in params}
    x = jax.device_put(x, P("data"))
    found = jax.device_get(VERBS[verb](fn, params, x))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4),
    found,
    wanted,
  )


def test_as_without_a_mesh():
  check("embedding", "compiled")


@pytest.mark.slow  # every verb is compiled twice for each model
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("model", MODELS)
def test_every_verb(model, verb):
  check(model, verb)
