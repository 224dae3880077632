"""Reading runs nothing of the model, and forgets the function at once."""

import functools
import gc
import threading
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from small_models import KEY, compilations, normal

import initjax
from initjax._executables import execute
from initjax.graph import signal_graph

W = normal(8, 8, variance=1 / 8)
X = normal(4, 8)
NUMBER = jax.ShapeDtypeStruct((), jnp.float32)
ran: list[str] = []


def host(number):
  ran.append("host")
  return np.float32(number)


def effects(p, x, call=jax.pure_callback):
  jax.debug.callback(lambda *_: ran.append("debug"), p)
  jax.debug.print("{}", 1.0)
  with_number = lambda x: x * call(host, NUMBER, 2.0)
  x = jax.lax.cond(x.sum() > 1e9, with_number, lambda x: x, x)
  return jax.nn.relu(x @ (call(host, NUMBER, 3.0) * p)) @ p


@pytest.mark.parametrize("call", [jax.pure_callback, io_callback])
def test_reading_runs_no_callback_and_measuring_runs_each_once(call, capsys):
  model = functools.partial(effects, call=call)
  ran.clear()
  graph = signal_graph(model, W, X)
  initjax.predict(model, W, X)
  jax.effects_barrier()
  assert (ran, capsys.readouterr().out) == ([], "")
  assert [op.multiplier for op in graph] == [1.0, 1.0]
  assert [op.origin for op in graph] == ["derived", "parameter"]
  plain = jax.jit(model)
  for run in (plain, functools.partial(initjax.diagnose, model)):
    ran.clear()
    run(W, X)
    jax.effects_barrier()
    assert sorted(ran) == ["debug", "host"]


def test_init_variables_calls_back_at_every_call():
  """Not once for all, while its jaxpr is read."""
  numbers = iter([2.0, 3.0])
  give = lambda: np.float32(next(numbers))

  def init(key):
    return jax.random.normal(key, (3,)) * jax.pure_callback(give, NUMBER)

  first, second = (initjax.init_variables(KEY, init) for _ in range(2))
  np.testing.assert_allclose(second, first * 1.5, rtol=1e-6)


def test_collectives_custom_primitives_and_known_keys_are_only_read():
  odd = jax.extend.core.Primitive("odd")
  odd.def_abstract_eval(lambda x: x)  # there is nothing to run it by

  def model(p, x):
    kept = jax.random.bernoulli(jax.random.fold_in(KEY, 3), 0.5, x.shape)
    scale = lambda x: x * jax.lax.psum(1.0, "i") * odd.bind(jnp.float32(2))
    x = jax.vmap(scale, axis_name="i")(jnp.where(kept, x, 0) @ p)
    return x @ (p * jax.random.uniform(jax.random.PRNGKey(1)))

  assert len(signal_graph(model, W, X)) == 2


def test_numbers_of_a_jit_around_are_no_numbers():
  scaled = lambda s: initjax.measure(lambda p, x: x @ (s * p), W, X)
  (row,) = jax.jit(scaled)(2.0).forward
  size = np.mean((2 * X.astype(np.float64) @ W) ** 2)
  np.testing.assert_allclose(row.log2_second_moment, np.log2(size), atol=1e-5)


@pytest.mark.slow  # equinox, an optional peer
def test_an_error_in_a_branch_not_taken_is_not_raised():
  """As in diffrax's solvers, whose steps check what they are given."""
  eqx = pytest.importorskip("equinox", reason="an optional peer")

  def model(p, x):
    fail = lambda h: eqx.error_if(h, jnp.array(True), "not taken")
    step = lambda h: jax.lax.cond(jnp.isnan(h).any(), fail, jnp.tanh, h)
    return step(x @ p) @ p

  assert len(initjax.diagnose(model, W, X).to_records()) == 2
  initjax.calibrate(model, W, X)
  initjax.auto_init(KEY, model, W, X)


# Loops without a known number of repeats


def loops(name, p, x):
  """`p` is used at each repeat of a loop that has no gradient."""
  p, x = jax.lax.stop_gradient((p, x))
  layer = lambda h: jax.nn.relu(h @ p)
  steps = jnp.int32(3) + jnp.int32(x[0, 0] * 0)
  fori = lambda h, layer: jax.lax.fori_loop(0, steps, lambda _, h: layer(h), h)
  branch = lambda h: jax.lax.cond(h[0, 0] > 0, layer, jnp.tanh, h)
  scan = lambda h, f: jax.lax.scan(lambda h, _: (f(h), None), h, None, 2)[0]
  return {
    "fori": lambda: fori(x, layer),
    "branch in fori": lambda: fori(x, branch),
    "scan in fori": lambda: fori(x, lambda h: scan(h, layer)),
    "fori in branch": lambda: jax.lax.cond(
      x[0, 0] > 0, lambda h: fori(h, layer), layer, x
    ),
    "fori in scan": lambda: jax.lax.stop_gradient(
      scan(x, lambda h: fori(h, layer))
    ),
  }[name]()


@pytest.mark.parametrize(
  "name",
  ["fori", "branch in fori", "scan in fori", "fori in branch", "fori in scan"],
)
def test_kernels_in_while_loops_are_listed_and_not_judged(name):
  model = lambda p, x: loops(name, p, x) @ p
  report = initjax.diagnose(model, W, X)
  *inside, last = report.to_records()
  assert all(np.isnan(row["saturation"]) for row in inside[:1])
  output = np.asarray(jax.jit(model)(W, X), np.float64)
  np.testing.assert_allclose(
    last["forward_log2_second_moment"], np.log2(np.mean(output**2)), atol=1e-5
  )
  assert inside[-1]["forward_predicted"] is None
  assert last["forward_predicted"] is None


def test_a_loop_in_a_custom_rule_is_not_measured():
  """Its rule, not its operations, says what goes back, as in an ODE solver."""

  @jax.custom_vjp
  def settled(w, x):
    small = lambda h: h.sum() < 0
    return jax.lax.while_loop(small, lambda h: jnp.tanh(h @ w), x)

  forward = lambda w, x: (settled(w, x), w)
  settled.defvjp(forward, lambda w, back: (jnp.zeros_like(w), 0 * back))
  report = initjax.measure(lambda p, x: settled(p[0], x) @ p[1], [W, W], X)
  numbers = [row["backward_size"] for row in report.to_records()]
  assert numbers == [0, X.size]  # of the entries that were looked at


def test_a_kernel_that_a_loop_changes_is_no_leaf_times_a_number():
  halved = lambda p: jax.lax.scan(lambda w, _: (w / 2, None), p, None, 9)[0]
  (op,) = signal_graph(lambda p, x: x @ halved(p), W, X)
  assert (op.origin, op.multiplier) == ("derived", 1.0)


# What was read is forgotten


class Scaled:
  """A model with an attribute; equal and hashed by identity."""

  scale = np.ones(1, np.float32)

  def __call__(self, p, x):
    return x @ (GLOBAL * (self.scale * p))


GLOBAL = ONE = np.ones(1, np.float32)


def size_of(model):
  measured = initjax.measure_and_grad(model, W, X)
  spectrum = initjax.measurement.jacobian_spectrum(model, W, X, method="exact")
  (row,) = initjax.diagnose(model, W, X).to_records()
  return np.array([
    np.abs(measured.outputs).max() / np.abs(X @ W).max(),
    2 ** ((row["forward_log2_second_moment"] - SIZE) / 2),
    np.sqrt(spectrum.mean / SPECTRUM),
  ])  # fmt: skip


SIZE = np.log2(np.mean((X.astype(np.float64) @ W) ** 2))
SPECTRUM = np.mean(np.linalg.svd(W.astype(np.float64), compute_uv=False) ** 2)


def test_a_changed_global_attribute_or_cell_is_seen(monkeypatch):
  model, cell = Scaled(), np.ones(1, np.float32)
  closure = lambda p, x: x @ (cell * (ONE * p))  # the program of the model
  expected = np.ones(3)
  np.testing.assert_allclose(size_of(model), expected, rtol=1e-4)
  np.testing.assert_allclose(size_of(closure), expected, rtol=1e-4)
  model.scale = np.full(1, 5.0, np.float32)
  np.testing.assert_allclose(size_of(model), 5 * expected, rtol=1e-4)
  monkeypatch.setitem(globals(), "GLOBAL", np.full(1, 7.0, np.float32))
  np.testing.assert_allclose(size_of(model), 35 * expected, rtol=1e-4)
  cell = np.full(1, 3.0, np.float32)
  np.testing.assert_allclose(size_of(closure), 3 * expected, rtol=1e-4)


def test_a_changed_rule_of_a_derivative_is_seen():
  slope = 1.0

  @jax.custom_jvp
  def activation(x):
    return x

  activation.defjvp(lambda x, t: (x[0], slope * t[0]))
  model = lambda p, x: activation(x @ p)
  before, after = [], []
  for found, slope in ((before, 1.0), (after, 4.0)):  # noqa: B007
    (row,) = initjax.diagnose(model, W, X).to_records()
    found.append(row["backward_log2_second_moment"])
  np.testing.assert_allclose(after[0] - before[0], 4, atol=1e-5)


def test_a_changed_variable_is_drawn_anew(monkeypatch):
  class Module(nn.Module):  # two of which are equal
    @nn.compact
    def __call__(self, x):
      return self.param("w", lambda key: GLOBAL * jax.random.normal(key, (3,)))

  before = initjax.init_variables(KEY, Module(), X)["params"]["w"]
  monkeypatch.setitem(globals(), "GLOBAL", np.full(1, 3.0, np.float32))
  after = initjax.init_variables(KEY, Module(), X)["params"]["w"]
  np.testing.assert_array_equal(after, np.float32(3) * before)


def test_a_model_written_twice_compiles_once_also_in_threads():
  def run(number):
    array = jnp.full(8, number, jnp.float32)  # closed over: an argument
    model = lambda p, x: jnp.tanh(x @ p + array) @ p
    sizes[number] = initjax.diagnose(model, W, X).to_records()

  sizes: dict[int, list] = {}
  run(0)
  threads = [threading.Thread(target=run, args=(n,)) for n in (1, 2)]

  def both():
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()

  assert compilations(both) == 0
  for number, rows in sizes.items():
    output = np.tanh(X.astype(np.float64) @ W + number) @ W
    np.testing.assert_allclose(
      rows[1]["forward_log2_second_moment"],
      np.log2(np.mean(output**2)), atol=1e-4,
    )  # fmt: skip


def test_programs_that_read_alike_are_told_apart():
  """The same text, of other arguments, numbers of them, and kinds of keys."""
  params = {name: np.full(3, x, np.float32) for x, name in enumerate("abc")}
  for x, name in enumerate("abc"):
    assert execute(lambda p, name=name: p[name] * 1, params)[0] == x
  assert execute(lambda p: p["b"] * 1, {**params, "d": KEY})[0] == 1
  draw = lambda key, x: jax.random.uniform(key) + 0 * x
  plain = jax.random.key_data(KEY)
  for key in (KEY, plain, KEY):
    assert execute(draw, key, X[0])[0] == jax.random.uniform(KEY)
  with jax.disable_jit():
    assert execute(lambda p: p["c"] * 1, params)[0] == 2


def test_configuration_and_devices_are_told_apart():
  run = lambda x: execute(lambda x: (x + 1, jax.random.split(KEY)), x)
  devices = jax.devices()[:2]
  for device in devices:
    found, _ = run(jax.device_put(X[0], device))
    assert found.devices() == {device}
  with jax.threefry_partitionable(False):
    _, keys = run(X[0])
    assert (keys == jax.random.split(KEY)).all()
  _, keys = run(X[0])
  assert (keys == jax.random.split(KEY)).all()


def test_no_array_of_the_model_is_kept():
  def run():
    params, closed_over = jnp.array(W), jnp.array(W)
    model = lambda p, x: jnp.tanh(x @ p) @ closed_over
    initjax.diagnose(model, params, X)
    initjax.measurement.jacobian_spectrum(model, params, X[0])
    initjax.calibrate(model, params, X)
    return [weakref.ref(array) for array in (params, closed_over)]

  seen = run()
  gc.collect()
  assert [each() for each in seen] == [None, None]
