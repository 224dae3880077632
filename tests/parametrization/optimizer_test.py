"""Absorbed factors train as explicit multipliers do; kinds of optimizers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scaled_models as models

import initjax
from initjax.parametrization import Parametrization, Scaling
from initjax.parametrization._rescale import rescaled

FACTORS = {"in": 1.0, "bias": 0.5, "hidden": 0.25, "out": 3.0}
COUPLED = optax.chain(
  optax.add_decayed_weights(0.1), optax.sgd(0.05, momentum=0.9)
)
OPTIMIZERS = {
  "momentum": optax.sgd(0.05, momentum=0.9),
  "coupled decay": COUPLED,
  "adam": optax.adam(0.01),
  "adamw": optax.adamw(0.01, weight_decay=0.1),
  "lion": optax.lion(0.01, weight_decay=0.1),
  "adafactor": optax.adafactor(0.01, min_dim_size_to_factor=2),
  "lamb": optax.lamb(0.01),
  "muon": optax.contrib.muon(0.01),
  "schedule free": optax.contrib.schedule_free_adamw(0.01, warmup_steps=3),
  "accumulating": optax.MultiSteps(optax.adamw(0.01), 2),
}
X, Y = (np.random.default_rng(0).normal(size=(5, n)) for n in (3, 2))


@pytest.fixture(autouse=True)
def _in_float64():
  with jax.enable_x64(True):
    yield


def loss(params):
  return jnp.mean((models.mlp(params, X) - Y) ** 2)


def multiplied(params):
  return {name: FACTORS[name] * leaf for name, leaf in params.items()}


def trained(tx, loss, params, steps=20):
  def step(carry, _):
    params, state = carry
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return (optax.apply_updates(params, updates), state), None

  run = lambda params, state: jax.lax.scan(step, (params, state), length=steps)[
    0
  ][0]
  state = tx.init(params)
  return jax.jit(run)(params, state)


def start():
  drawn = models.drawn(models.mlp_shapes(4))
  return {name: np.float64(leaf) for name, leaf in drawn.items()}


def plan_of(factors):
  shapes = {name: leaf.shape for name, leaf in start().items()}
  rows = [
    Scaling(p, shapes[p], shapes[p], "hidden", 1.0, 1.0, 1.0, absorbed=factor)
    for p, factor in factors.items()
  ]
  return Parametrization(tuple(rows), shapes=start())


FAST = ("momentum", "coupled decay", "adam", "adamw", "lion")


@pytest.mark.parametrize(
  "name",
  [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
    for name in OPTIMIZERS
  ],
)
def test_what_is_absorbed_trains_as_a_multiplier_would(name):
  tx, params = OPTIMIZERS[name], start()
  explicit = trained(tx, lambda params: loss(multiplied(params)), params)
  wrapped = plan_of(FACTORS).optimizer(tx)
  absorbed = trained(wrapped, loss, multiplied(params))
  for leaf, other in zip(
    jax.tree.leaves(absorbed),
    jax.tree.leaves(multiplied(explicit)),
    strict=True,
  ):
    # 20 steps of rounding, and Newton–Schulz in Muon, enlarge 1e-16
    np.testing.assert_allclose(leaf, other, rtol=1e-12, atol=1e-13)
  moved = abs(explicit["hidden"] - params["hidden"]).max()
  assert moved > 1e-3


KINDS = {
  "sgd": optax.chain(optax.clip_by_global_norm(1.0), COUPLED),
  "adam": optax.adamw(optax.warmup_constant_schedule(0.0, 0.01, 5)),
  "parameter_scaled": optax.lars(0.01),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_tells_its_kind(kind):
  assert set(kinds_of(KINDS[kind]).values()) == {kind}


def kinds_of(tx, plan=None):
  found = (plan or plan_of(FACTORS))._kinds(tx)
  return {path: each.kind for path, each in found.items()}


@pytest.mark.slow
def test_each_leaf_has_its_own_kind():
  expected = dict.fromkeys(("in", "hidden", "out"), "muon")
  assert kinds_of(OPTIMIZERS["muon"], mlp_plan()) == {
    **expected,
    "bias": "adam",
  }
  assert set(kinds_of(OPTIMIZERS["lion"]).values()) == {"adam"}
  assert set(kinds_of(OPTIMIZERS["adafactor"]).values()) == {"parameter_scaled"}
  labels = {"in": "a", "bias": "b", "hidden": "a", "out": "b"}
  parts = {"a": optax.adam(0.1), "b": optax.sgd(0.1)}
  kinds = kinds_of(optax.multi_transform(parts, labels))
  assert kinds == {"in": "adam", "bias": "sgd", "hidden": "adam", "out": "sgd"}


@pytest.mark.slow
@pytest.mark.parametrize("consistent_rms", [None, 0.2])
def test_muon_moves_kernels_alike_at_all_widths(consistent_rms):
  def shapes(n, m):  # fan_in grows × 2, fan_out × 8
    sizes = {"in": (3, n), "hidden": (m, n), "out": (m, 2)}
    return {name: models.shape(*size) for name, size in sizes.items()}

  def model(w, x):
    return (x @ w["in"] @ w["hidden"].T) @ w["out"]

  wide, base = shapes(8, 32), shapes(4, 4)
  plan = initjax.mup(model, wide, models.X, base=(model, base, models.X))
  tx = optax.contrib.muon(
    1.0,
    consistent_rms=consistent_rms,
    muon_weight_dimension_numbers=plan.muon_weight_dimension_numbers,
  )
  wrapped = plan.optimizer(tx)
  norms = []
  for tree, one in ((wide, wrapped), (base, tx)):
    drawn = models.drawn(tree)
    step = one_step(one, drawn, drawn)["hidden"]
    norms.append(np.linalg.norm(step) / min(step.shape) ** 0.5)
  # √(r_out/r_in) is 2; Newton–Schulz ends within 0.7 and 1.2
  assert 1.2 < norms[0] / norms[1] < 3.4


def mlp_plan(wide=8, base=4, **options):
  return initjax.mup(
    models.mlp,
    models.mlp_shapes(wide),
    models.X,
    base=(models.mlp, models.mlp_shapes(base), models.X),
    **options,
  )


def one_step(tx, params, gradients):
  return tx.update(gradients, tx.init(params), params)[0]


def test_rates_and_epsilon_are_those_of_the_table():
  ones = {"in": jnp.ones((3, 8)), "bias": jnp.ones(8), "out": jnp.ones((8, 2))}
  ones["hidden"] = jnp.ones((8, 8))
  # ε as large as gradients: the first step of Adam is g/(|g| + ε)
  tx = mlp_plan().optimizer(optax.adam(1.0, eps=1.0), kind="adam")
  steps = one_step(tx, ones, ones)
  found = {name: float(step.ravel()[0]) for name, step in steps.items()}
  vector, output = -1 / (1 + 1 / 2), -0.5 / (1 + 1)
  hidden = -0.5 / (1 + 1 / 2)
  expected = {"in": vector, "bias": vector, "hidden": hidden, "out": output}
  assert found == pytest.approx(expected)


@pytest.mark.parametrize("decay", ["fixed_timescale", "with_rate"])
def test_decay_has_the_timescale_that_is_asked_for(decay):
  params = {name: jnp.asarray(leaf) for name, leaf in start_of(8).items()}
  tx = optax.adamw(0.3, weight_decay=0.1, eps=1e-30)
  options = {} if decay == "fixed_timescale" else {"decay": decay}
  given = mlp_plan().optimizer(tx, kind="adam", **options)
  steps = one_step(given, params, jax.tree.map(jnp.ones_like, params))
  # Adam's first step is the sign of the gradient, 1; u = -η(b·1 + λθ)
  rate = 1.0 if decay == "fixed_timescale" else 0.5  # of hidden kernels
  hidden = -0.3 * (0.5 + 0.1 * rate * params["hidden"])
  np.testing.assert_allclose(steps["hidden"], hidden, rtol=1e-12)
  np.testing.assert_allclose(steps["in"], -0.3 * (1 + 0.1 * params["in"]))


def test_a_factor_of_one_plus_a_scale_is_absorbed_exactly():
  c, tx = 0.3, optax.adamw(0.05, weight_decay=0.1)
  params = {"in": start()["in"], "scale": np.zeros(4), "out": start()["out"]}

  def loss(w, factor=1.0):
    h = models.norm(X @ w["in"], 1 + w["scale"], 0.0) * factor
    return jnp.mean((h @ w["out"] - Y) ** 2)

  rows = [
    Scaling(p, x.shape, x.shape, "hidden", 1, 1, 1, std=float(np.std(x)))
    for p, x in params.items()
  ]
  rows[1] = rows[1]._replace(absorbed=c, offset=1.0)
  plan = Parametrization(tuple(rows))
  wrapped = plan.optimizer(tx, kind="adam")
  found = trained(wrapped, loss, rescaled(params, plan.table, again=True))
  explicit = trained(tx, functools.partial(loss, factor=c), params)
  assert abs(explicit["scale"]).max() > 0.1
  taken = c * (1 + explicit["scale"]) - 1
  np.testing.assert_allclose(found["scale"], taken, rtol=1e-10)
  np.testing.assert_allclose(found["in"], explicit["in"], rtol=1e-10)


def test_evaluation_parameters_are_those_of_explicit_multipliers():
  tx = optax.contrib.schedule_free_adamw(0.1)
  params, shift = start(), {"in": 0.1, "bias": 0.2, "hidden": 0.3, "out": 0.4}
  state = tx.init(params)
  state = state._replace(z={n: z + shift[n] for n, z in state.z.items()})
  explicit = optax.contrib.schedule_free_eval_params(state, params)
  found = plan_of(FACTORS).evaluation_params(state, multiplied(params))
  for name, leaf in multiplied(explicit).items():
    np.testing.assert_allclose(found[name], leaf, rtol=1e-12)
  with pytest.raises(
    TypeError, match=r"expects .*ScheduleFreeState; got tuple"
  ):
    plan_of(FACTORS).evaluation_params((state,), params)


def test_relative_updates_have_their_own_rates():
  plan = mlp_plan()
  rates = {row.path: row.steps("parameter_scaled").update for row in plan.rows}
  assert rates.pop("hidden") == pytest.approx(0.5**0.5)
  assert set(rates.values()) == {1.0}


def test_muon_is_told_which_axes_are_summed():
  def model(w, x):
    layer = lambda h, w: (jnp.einsum("bhk,hkd->bd", jnp.einsum(
      "bd,dhk->bhk", h, w["up"]), w["down"]), None)  # fmt: skip
    return jax.lax.scan(layer, x @ w["in"], w["layers"])[0] @ w["out"]

  def shapes(n):
    layers = {"up": models.shape(3, n, 2, n), "down": models.shape(3, 2, n, n)}
    ends = {"in": models.shape(3, n), "out": models.shape(n, 2)}
    return ends | {"layers": layers}

  base = (model, shapes(4), models.X)
  plan = initjax.mup(model, shapes(8), models.X, base=base)
  found = plan.muon_weight_dimension_numbers(shapes(8))
  assert found["in"] is found["out"] is None
  assert found["layers"]["up"] == ((1,), (2, 3))
  assert found["layers"]["down"] == ((1, 2), (3,))


@pytest.mark.slow
def test_a_tied_transformer_trains_as_with_multipliers():
  shapes = functools.partial(models.gpt_shapes, layers=1, tied=True)
  base = (models.gpt, shapes(4), models.TOKENS)
  plan = initjax.mup(models.gpt, shapes(16), models.TOKENS, base=base)
  ones = {"adam": 1.0, "eps": 1.0}  # the same rates for both
  rows = [row._replace(**ones) for row in plan.rows]
  plan = dataclasses.replace(plan, rows=tuple(rows))
  tokens = np.arange(12).reshape(2, 6) % models.VOCABULARY
  leaves, structure = jax.tree.flatten(models.drawn(shapes(16)))
  params = [np.float64(leaf) for leaf in leaves]
  start = [leaf * row.absorbed for leaf, row in zip(params, rows, strict=True)]

  def loss(params, **multipliers):
    logits = models.gpt(params, tokens, **multipliers)
    return -jax.nn.log_softmax(logits)[..., 0].mean()

  tx = optax.adamw(0.01, weight_decay=0.1)
  explicit = functools.partial(loss, score=0.5, logits=0.25)
  one = trained(tx, explicit, jax.tree.unflatten(structure, params))
  wrapped = plan.optimizer(tx, kind="adam")
  other = trained(wrapped, loss, jax.tree.unflatten(structure, start))
  np.testing.assert_allclose(loss(other), explicit(one), rtol=1e-10)
  assert explicit(jax.tree.unflatten(structure, params)) > 1.1 * explicit(one)


def start_of(n):
  drawn = models.drawn(models.mlp_shapes(n))
  return {name: np.float64(leaf) for name, leaf in drawn.items()}


def test_clipping_sees_the_gradients_of_multipliers():
  params = start()
  clip = plan_of(FACTORS).clip_by_global_norm(0.1)
  clipped, _ = clip.update(
    jax.grad(loss)(multiplied(params)), clip.init(params)
  )
  explicit = jax.grad(lambda params: loss(multiplied(params)))(params)
  usual = optax.clip_by_global_norm(0.1)
  expected, _ = usual.update(explicit, usual.init(params))
  for name, leaf in clipped.items():
    np.testing.assert_allclose(leaf * FACTORS[name], expected[name], rtol=1e-12)


def test_masks_and_extra_arguments_pass_through():
  params = start()
  tx = optax.masked(
    optax.sgd(1.0), {"in": True, "bias": False, "hidden": True, "out": True}
  )
  wrapped = plan_of(FACTORS).optimizer(tx, kind="sgd")
  steps, _ = wrapped.update(params, wrapped.init(params), params, value=1.0)
  np.testing.assert_array_equal(steps["hidden"], -params["hidden"] / 16)
  wrapped = plan_of(FACTORS).optimizer(optax.sgd(1.0), kind="sgd")
  inside = optax.masked(wrapped, dict.fromkeys(params, True) | {"in": False})
  steps, _ = inside.update(params, inside.init(params), params)
  np.testing.assert_array_equal(steps["in"], params["in"])
  np.testing.assert_array_equal(steps["out"], -9 * params["out"])


def test_a_tree_of_other_leaves_is_named():
  tx = plan_of(FACTORS).optimizer(optax.sgd(1.0), kind="sgd")
  with pytest.raises(KeyError, match=r"no leaf .*other"):
    tx.init({"other": np.ones(3)})


def test_an_optimizer_that_cannot_be_tried_wants_its_kind():
  def update(updates, state, params=None):
    raise RuntimeError("needs a mesh")

  broken = optax.GradientTransformation(lambda params: (), update)
  with pytest.raises(ValueError, match=r"needs a mesh.*kind='adam'"):
    plan_of(FACTORS).optimizer(broken)
  with pytest.raises(TypeError, match=r"optax transformation.*got 'adam'"):
    plan_of(FACTORS).optimizer("adam")


def test_a_rate_may_be_traced():
  plan, params = plan_of(FACTORS), start()

  def first(rate):
    tx = plan.optimizer(optax.chain(optax.sgd(rate), optax.scale(2.0)))
    return tx.update(params, tx.init(params), params)[0]["out"]

  found = jax.vmap(first)(jnp.array([1.0, 0.25]))
  np.testing.assert_allclose(found[0], -18 * params["out"])
  np.testing.assert_allclose(found[1], -4.5 * params["out"])


def test_a_traced_number_that_decides_the_kind_is_refused():
  epsilon = lambda eps: plan_of(FACTORS).optimizer(optax.adam(0.1, eps=eps))
  with pytest.raises(ValueError, match=r"numbers that are traced.*kind='adam'"):
    jax.jit(lambda eps: epsilon(eps).init(start()))(1e-8)


def test_the_state_is_that_of_the_optimizer():
  tx = optax.inject_hyperparams(optax.adamw)(learning_rate=0.1)
  params, plan = start(), plan_of(FACTORS)
  wrapped = plan.optimizer(tx, kind="adam")
  states = [jax.tree.structure(each.init(params)) for each in (tx, wrapped)]
  assert states[0] == states[1]


def test_a_plan_of_a_file_asks_the_optimizer_at_its_first_tree(tmp_path):
  plan_of(FACTORS).to_json(tmp_path / "plan.json")
  plan = Parametrization.from_json(tmp_path / "plan.json")
  tx = plan.optimizer(optax.sgd(1.0))
  params = start()
  steps, _ = jax.jit(tx.update)(params, tx.init(params), params)
  np.testing.assert_allclose(steps["out"], -9 * params["out"])


def test_sharding_stays():
  mesh = jax.make_mesh((4,), ("x",), (jax.sharding.AxisType.Auto,))
  sharding = jax.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))
  params = start()
  params["hidden"] = jax.device_put(params["hidden"], sharding)
  tx = plan_of(FACTORS).optimizer(optax.sgd(1.0), kind="sgd")
  steps, _ = tx.update(params, tx.init(params), params)
  assert steps["hidden"].sharding.is_equivalent_to(sharding, 2)
