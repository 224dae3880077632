"""What of a model is judged together: graphs are read, little is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
from small_models import X, kernels, normal

from initjax.diagnosis import diagnose
from initjax.diagnosis._chain import paths_of
from initjax.diagnosis._links import Link, Links
from initjax.diagnosis._pieces import pieces_of
from initjax.graph import signal_graph
from initjax.measurement import leaves_of


def several(depth, seed=0):
  return list(kernels(1.0, depth, seed=seed))


def mlp(kernels, x):
  h = x @ kernels[0]
  for kernel in kernels[1:]:
    h = jnp.tanh(h) @ kernel
  return h


def norm(h):
  h = h - h.mean(-1, keepdims=True)
  return h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-6)


def blocks(params, x):
  """Pre-normalized residual blocks."""
  h = x @ params["in"]
  for first, second in zip(params["a"], params["b"], strict=True):
    h = h + jax.nn.gelu(norm(h) @ first) @ second
  return norm(h) @ params["out"]


def of_blocks(seed=0):
  one, *rest = several(8, seed)
  return {"in": one, "out": rest[0], "a": rest[1:4], "b": rest[4:7]}


def parts(fn, params, *inputs):
  found = pieces_of(signal_graph(fn, params, *inputs), leaves_of(params))
  pieces = [(each.kind, each.sequences) for each in found.pieces]
  return pieces, found


def test_a_serial_model_is_one_chain():
  pieces, found = parts(mlp, several(5), X)
  assert pieces == [("chain", ((0, 1, 2, 3, 4),))]
  chain = found.pieces[0].chain
  assert chain.rows == (0, 1, 2, 3, 4)
  assert chain.returns
  assert not found.unjudged


def test_towers_are_chains_of_their_own():
  def model(params, x, y):
    return (mlp(params["a"], x) * mlp(params["b"], y)).sum(-1)

  pieces, found = parts(model, {"a": several(4), "b": several(5)}, X, X)
  assert [each[0] for _, each in pieces] == [(0, 1, 2, 3), (4, 5, 6, 7, 8)]
  assert all(each.chain.returns for each in found.pieces)


def test_blocks_are_compared_with_each_other_and_towers_are_not():
  def two(params, x, y):
    one, other = blocks(params["v"], x), blocks(params["t"], y)
    return norm(one) @ norm(other).T

  one = ("blocks", ((1, 3, 5), (2, 4, 6)))
  pieces, found = parts(blocks, of_blocks(), X)
  assert pieces == [one]
  assert not found.unjudged
  pieces, _ = parts(two, {"v": of_blocks(), "t": of_blocks(1)}, X, X)
  assert pieces == [one, ("blocks", ((9, 11, 13), (10, 12, 14)))]


def test_a_layer_that_is_read_twice_has_no_law_backward():
  def model(kernels, x):
    h = x
    for kernel in kernels[:4]:
      h = jnp.tanh(h @ kernel)
    return jnp.tanh(h @ kernels[4]) @ kernels[5] + (h @ kernels[6])

  pieces, found = parts(model, several(7), X)
  assert pieces[0] == ("chain", ((0, 1, 2, 3, 4, 5),))
  assert not found.pieces[0].chain.returns


def test_a_derivative_uses_kernels_again():
  """In u(x) + u'(x) the network is a chain; its second use is another."""

  def model(params, x):
    u = lambda x: mlp(params, x).sum()
    return jax.vmap(lambda x: u(x) + jax.grad(u)(x).sum())(x)

  pieces, found = parts(model, several(4), X)
  assert pieces[0] == ("chain", ((0, 1, 2, 3),))
  kind, ((*again,),) = pieces[1]  # its output need not be computed again
  assert kind == "chain"
  assert again[:3] == [4, 5, 6]
  assert not found.pieces[0].chain.returns


def test_pools_are_followed_but_have_no_law():
  def model(kernels, x):
    h = x @ kernels[0]
    for kernel in kernels[1:]:
      h = jnp.tanh(h).reshape(4, -1, 2, 64).mean(2) @ kernel
    return h

  pieces, found = parts(model, several(4), normal(4, 16, 64))
  assert pieces == [("chain", ((0, 1, 2, 3),))]
  assert found.pieces[0].chain is None


def test_layers_of_one_block_are_not_compared_with_those_of_the_next():
  def couplings(params, x):
    for one, two, three in params:
      x = x * jnp.exp(jnp.tanh(jnp.tanh(x @ one) @ two) @ three) + x
    return x

  one, *rest = several(9)
  params = [[one, *rest[:2]], rest[2:5], rest[5:8]]
  sequences = parts(couplings, params, X)[0][0][1]
  assert set(sequences) >= {(1, 4, 7), (2, 5, 8)}


def decoder(params, x, seen):
  """Cross-attention: each block reads `seen` through a kernel of its own."""
  h = x @ params["in"]
  for query, key in zip(params["a"], params["b"], strict=True):
    h = h + jax.nn.softmax(norm(h) @ query @ (seen @ key).T) @ seen
  return norm(h) @ params["out"]


def test_what_reads_one_thing_is_judged_with_the_blocks_that_it_feeds():
  kinds, found = parts(decoder, of_blocks(), X, X)
  ((kind, sequences),) = kinds
  paths = [row.op.path for row in signal_graph(decoder, of_blocks(), X, X).rows]
  named = [[paths[at] for at in sequence] for sequence in sequences]
  assert kind == "blocks"
  assert named == [["a/0", "a/1", "a/2"], ["b/0", "b/1", "b/2"]]
  assert not found.unjudged
  towers = lambda params, x, seen: sum(seen @ key for key in params["b"])
  assert parts(towers, of_blocks(), X, X)[0] == []  # nothing follows them


def test_an_encoder_and_a_decoder_have_one_attention_each():
  def model(params, x):
    for part in params.values():
      query, value, skip = (part["attend"][name]["kernel"] for name in "qvs")
      scores = norm(x) @ query @ norm(x).T
      x = jax.nn.softmax(scores) @ (norm(x) @ value) + x @ skip
    return x

  kernel = iter(several(6))
  coder = lambda: {"attend": {name: {"kernel": next(kernel)} for name in "qvs"}}
  pieces, found = parts(model, {"encoder": coder(), "decoder": coder()}, X)
  assert pieces == [("blocks", ((0, 3), (1, 4)))]
  assert not found.unjudged


def test_what_is_in_no_piece_is_listed_with_its_reason():
  """Of two branches that are summed one is left over."""

  def model(params, x):
    h = jax.nn.relu(x @ params["in"])
    return (h @ params["a"] + norm(h) @ params["b"]) @ params["out"]

  names = ("in", "a", "b", "out")
  params = dict(zip(names, several(4), strict=True))
  pieces, found = parts(model, params, X)
  assert pieces == [("path", ((0, 1, 3),))]
  ((row, reason),) = found.unjudged.items()
  assert row == 2
  assert "neither in a chain" in reason


def test_a_report_says_what_is_not_judged():
  def model(params, x):
    h = jax.nn.relu(x @ params["in"])
    return (h @ params["a"] + norm(h) @ params["b"]) @ params["out"]

  names = ("in", "a", "b", "out")
  report = diagnose(model, dict(zip(names, several(4), strict=True)), X)
  assert [row for row, _ in report.unjudged] == [2]
  assert "growth not judged at b: neither in a chain" in str(report)


def test_the_longest_path_goes_first_and_no_row_is_in_two():
  """A row with readers 1 and 3, of which 3 leads further."""
  feeds = [None, 0, 1, 0, 3, 4]
  links = [None if f is None else Link(f, (), True) for f in feeds]
  found = paths_of(Links((0,) * 6, (0,) * 6, tuple(links), (0,) * 6, True))
  assert found == [(0, 3, 4, 5), (1, 2)]


def test_steps_of_a_recurrence_are_blocks():
  def model(params, x):
    step = lambda h, x: (jnp.tanh(h @ params["w"] + x @ params["u"]), None)
    return jax.lax.scan(step, jnp.zeros((32, 64)), x)[0]

  w, u = several(2)
  pieces, _ = parts(model, {"w": w, "u": u}, normal(6, 32, 64))
  ((kind, sequences),) = pieces
  assert kind == "blocks"
  assert np.diff(sequences[0]).tolist() == [2] * 4
