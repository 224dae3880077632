"""Running a jaxpr with visits: every call is rebuilt, and states are shared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import normal

from initjax.graph._compat import open_jaxpr, sub_jaxprs
from initjax.graph._interpret import FORWARD, WITH_RULES, Slot, Visitor, run

X, W = normal(4, 8), normal(3, 8, 8)


@jax.custom_jvp
def doubled(x):
  return jnp.sin(x) * 2


doubled.defjvp(lambda x, t: (doubled(*x), 2 * t[0]))


def model(x, kernels):
  """Calls of every kind; the loop's body runs thrice, one of two branches."""
  layer = jax.checkpoint(lambda h, w: (jnp.sin(h @ w), jnp.sum(h)))
  x, sums = jax.lax.scan(layer, x, kernels)
  x = jax.lax.cond(sums[0] > 1e9, jnp.sin, lambda x: jnp.cos(jnp.sin(x)), x)
  return jax.jit(doubled)(x), sums


def sines(jaxpr, place=(), scans=()):
  """Sites of all sines in a jaxpr, and the lengths of the scans around."""
  for index, equation in enumerate(open_jaxpr(jaxpr).jaxpr.eqns):
    name, site = equation.primitive.name, (*place, index)
    if name == "sin":
      yield site, scans
    around = (*scans, equation.params["length"]) if name == "scan" else scans
    for number, inner in enumerate(sub_jaxprs(equation.params)):
      below = (*site, number) if name == "cond" else site
      yield from sines(inner, below, around)


def visited(enter):
  """Outputs, the largest |x| and the turn of each visit, and their number."""
  jaxpr = jax.make_jaxpr(model)(X, W)

  def visit(seen, slot, count):
    (output,) = seen.outputs
    found = (jnp.max(abs(output)), count)
    return [output], found, count + 1

  slots = {
    site: Slot(None, (jnp.zeros(scans), jnp.full(scans, -1)))
    for site, scans in sines(jaxpr)
  }
  shared = {"all": frozenset()}
  visitor = Visitor(visit, dict.fromkeys(slots, "all"), shared)
  return run(jaxpr, [X, W], visitor, slots, {"all": jnp.array(0)}, enter=enter)


@pytest.mark.parametrize("enter", [WITH_RULES, FORWARD])
def test_a_state_is_shared_by_all_visits_in_order(enter):
  """Three of the loop, none in the branch not taken, then one each."""
  outputs, found, states = jax.jit(visited, static_argnums=0)(enter)
  expected = jax.jit(model)(X, W)
  jax.tree.map(np.testing.assert_allclose, outputs, list(expected))
  turns = [np.asarray(turn).tolist() for _, turn in found.values()]
  assert sorted(turns, key=str) == sorted([[0, 1, 2], -1, 3, 4], key=str)
  assert states == {"all": 5}
  largest = {str(t): m for t, (m, _) in zip(turns, found.values(), strict=True)}
  assert largest["-1"] == 0
  np.testing.assert_allclose(
    largest["4"], abs(expected[0]).max() / (2 if enter is FORWARD else 1)
  )
