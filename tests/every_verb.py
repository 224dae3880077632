"""Every verb on one model, by one process or as one of two; writes a pickle.

python tests/every_verb.py FILE [PORT PROCESS]
"""

import functools
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np

import initjax
from initjax import testing

P = jax.sharding.PartitionSpec
DEPTH, WIDTH = 4, 64  # the stack is larger than all that may be read of it
RANDOM = np.random.default_rng(0)


def key():
  """Not drawn at import: processes find each other first."""
  return jax.random.key(1)


def normal(*shape, scale=1.0):
  return (scale * RANDOM.normal(size=shape)).astype(np.float32)


PARAMS = {
  "first": normal(8, WIDTH, scale=8**-0.5),
  "stack": normal(DEPTH, WIDTH, WIDTH, scale=(2 / WIDTH) ** 0.5),
  "bias": normal(DEPTH, WIDTH, scale=0.1),
  "last": normal(WIDTH, 8, scale=WIDTH**-0.5),
}
X = normal(8, 8)
SPLIT = {
  "first": P("d"),
  "stack": P(None, None, "d"),
  "bias": P(None, "d"),
  "last": P("d"),
}
PLACES = {"data parallel": dict.fromkeys(PARAMS, P()), "fully sharded": SPLIT}


def model(params, x):
  def layer(h, given):
    kernel, bias = given
    return jax.nn.relu(h @ kernel + bias), None

  stack = params["stack"], params["bias"]
  return jax.lax.scan(layer, x @ params["first"], stack)[0] @ params["last"]


def init(own):
  return {name: jax.random.normal(own, x.shape) for name, x in PARAMS.items()}


def spectrum(params, x, **options):
  found = initjax.jacobian_spectrum(model, params, x, **options)
  return found.mean, found.relative_variance


def calibrated(params, x):
  changed, info = initjax.calibrate(model, params, x)
  return changed, [(op.factor, op.before) for op in info.operations]


def diagnosed(params, x, **options):
  report = initjax.diagnose(model, params, x, **options)
  assert str(report)
  return report.to_records(), [v.kind for v in report.verdicts]


def variables(params, x):
  del params, x
  mesh = jax.make_mesh((4,), ("d",), (jax.sharding.AxisType.Auto,))
  where = {name: jax.NamedSharding(mesh, spec) for name, spec in SPLIT.items()}
  return initjax.init_variables(key(), init, shardings=where)


def audited(params, x):
  del x
  twice = {**params, "copy": 2 * params["stack"]}
  found = initjax.recipes.audit(twice)
  return [(row.mean, row.std) for row in found.rows], found.duplicates


def asserted(name):
  def run(params, x):
    try:
      getattr(testing, name)(model, params, x)
    except AssertionError as error:
      return str(error).splitlines()[0][:40]
    return "passed"

  return run


VERBS = {
  "signal_graph": lambda p, x: [
    (op.fan_in, op.fan_out) for op in initjax.signal_graph(model, p, x)
  ],
  "measure": lambda p, x: initjax.measure(model, p, x).to_records(),
  "measure, compiled": lambda p, x: jax.jit(
    functools.partial(initjax.measure, model, detail=True)
  )(p, x).to_records(),
  "measure_and_grad": lambda p, x: initjax.measure_and_grad(model, p, x)[1:],
  "diagnose": diagnosed,
  "diagnose, draws": functools.partial(diagnosed, init=init, draws=2),
  "predict": lambda p, x: initjax.predict(model, p, x)[:2],
  "jacobian_spectrum": spectrum,
  "jacobian_spectrum, applied": functools.partial(spectrum, method="lanczos"),
  "plan_init": lambda p, x: [
    (row.gain, row.std) for row in initjax.plan_init(model, p, x).rows
  ],
  "auto_init": lambda p, x: initjax.auto_init(key(), model, p, x),
  "calibrate": calibrated,
  "init_variables": variables,
  "rules": lambda p, x: initjax.rules(
    [("bias", jax.nn.initializers.normal()), ("*", 0.5)]
  ).apply(key(), p),
  "audit": audited,
  **{
    name: asserted(name)
    for name in testing.__all__
    if name.startswith("assert_") and name != "assert_width_stable"
  },
}


CASES = [
  (place, verb)
  for place in PLACES
  for verb in VERBS
  if (place, verb) != ("data parallel", "jacobian_spectrum, applied")  # longest
]


def placed(x, mesh, spec):
  where = jax.NamedSharding(mesh, spec)
  return jax.make_array_from_callback(x.shape, where, lambda index: x[index])


def watched():
  """The sizes of arrays of JAX that are read, from now on."""
  kind, sizes = type(jnp.zeros(())), [0]
  value = kind._value

  def read(array):
    sizes.append(array.size)
    return value.fget(array)

  kind._value = property(read)
  return sizes


def whole(tree):
  """Arrays of NumPy, by one program for all that other processes have."""
  leaves, structure = jax.tree.flatten(tree)
  split = {
    at: leaf
    for at, leaf in enumerate(leaves)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
  }
  (mesh,) = {leaf.sharding.mesh for leaf in split.values()}
  everywhere = jax.NamedSharding(mesh, P())
  split = jax.jit(lambda x: x, out_shardings=everywhere)(split)
  leaves = [split.get(at, leaf) for at, leaf in enumerate(leaves)]
  return jax.device_get(jax.tree.unflatten(structure, leaves))


def every_verb(places, cases):
  """By place and verb what it gives, or the exception."""
  found = {}
  for place, verb in cases:
    print(place, verb, flush=True)
    try:
      found[place, verb] = VERBS[verb](*places[place])
    except Exception as error:  # to be reported by the test
      found[place, verb] = repr(error)
  return found


def main(path, port="", process=""):
  if not port:
    arguments = jax.tree.map(jnp.asarray, (PARAMS, X))
    cases = [("alone", verb) for verb in VERBS]
    found = jax.device_get(every_verb({"alone": arguments}, cases))
  else:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
    mesh = jax.make_mesh((4,), ("d",), (jax.sharding.AxisType.Auto,))
    arguments = {
      place: (
        {name: placed(x, mesh, specs[name]) for name, x in PARAMS.items()},
        placed(X, mesh, P("d")),
      )
      for place, specs in PLACES.items()
    }
    sizes = watched()
    found = every_verb(arguments, CASES)
    largest = max(sizes)
    found = {**whole(found), "largest": largest}
  with open(path, "wb") as file:
    pickle.dump(found, file)


if __name__ == "__main__":
  main(*sys.argv[1:])
