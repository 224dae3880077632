"""The main experiment: rescaling, theory, verdicts, files, flags."""

import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from experiments.data import datasets
from experiments.runtime import results
from experiments.runtime.job import Job
from experiments.signal_propagation import __main__ as main
from experiments.signal_propagation import (
  extremes,
  overview,
  records,
  theory,
)
from experiments.signal_propagation import show as views
from initjax import meanfield

ROOT = pathlib.Path(__file__).parents[2]
FEW = {"networks": 4, "layers": 3}
SMALL = {"depth": 30, "width": 64, "seeds": 4, "batch": 16, **FEW}


@pytest.mark.parametrize("scheme", main.SCHEMES)
def test_a_rescaled_draw_is_the_initializers_own(scheme):
  """base(key) · factor equals the scheme's initializer at the same key."""
  base = main.BASES[main.SCHEMES[scheme].base]
  init = main.SCHEMES[scheme].build(main.ACTIVATIONS["tanh"])
  factors = main._factors(scheme, "tanh", 64, 32)
  for shape, factor in zip([(64, 32), (32, 32)], factors, strict=True):
    key = jax.random.key(7)
    np.testing.assert_allclose(
      base(key, shape) * factor,
      init(key, shape),
      rtol=1e-5,  # norms of 1024 float32 numbers, then one product
    )


ONE_INPUT = theory.Conditions(
  depth=4, width=128, seeds=9, batch=1, correlation=0.0
)


def ends(law, conditions, *, backward=False, **options):
  """log₂ of the growth over all layers: middle of the band, half its width."""
  start, end = (-1, 0) if backward else (0, -1)
  band = theory.band(law, start, 7.0, conditions, backward=backward, **options)
  return band.middle[end] - 7.0, band.half_width[end]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("depth", [4, 100])
def test_the_band_of_relu_is_that_of_its_exact_law(depth, backward):
  """depth - 1 steps, whatever the first layer did: that is known.

  First order in 1/n: a step's mean, -5/(2n), and std are off by some 2/n. In 4
  layers the first, if it were not known, would widen the band by √(17/15).
  """
  conditions = ONE_INPUT._replace(depth=depth)
  laws = theory.laws(jax.nn.relu, 1.0, 0.3, conditions)
  exact = meanfield.relu_log_norm(depth - 1, 128)
  middle, half_width = ends(laws[backward], conditions, backward=backward)
  bit = math.log(2)
  np.testing.assert_allclose(middle, exact.mean / bit, rtol=4 / 128)
  np.testing.assert_allclose(
    half_width, 3 * exact.std / bit / math.sqrt(9), rtol=3 / 128
  )


@pytest.mark.parametrize("backward", [False, True])
def test_the_band_of_linear_networks_is_that_of_chi_squared(backward):
  """Each layer multiplies by σ_w²·χ²_n/n: digamma and trigamma of n/2."""
  laws = theory.laws(lambda x: x, -1.0, 0.0, ONE_INPUT)
  middle, half_width = ends(laws[backward], ONE_INPUT, backward=backward)
  mean = special.digamma(64) - math.log(64)  # -1/n to order 1/(3n) of it
  std = math.sqrt(3 * special.polygamma(1, 64) / 9)  # √(2/n) to order 1/(2n)
  bit = math.log(2)
  np.testing.assert_allclose(middle, -3 + 3 * mean / bit, rtol=1 / 128**2)
  np.testing.assert_allclose(half_width, 3 * std / bit, rtol=1 / 128)


def test_the_band_knows_what_the_digits_have_in_common():
  """One linear layer: |x_a|² and |x_b|² have the covariance 2·c_ab²/n.

  So the variance of their mean over the batch is 2/n times the mean of c², to
  order 1/n: the first layer leaves c_ab itself uncertain by 1/√n, and 1/B is
  not much more than 1/n.
  """
  inputs = datasets.load_inputs("digits", 64, 0)
  gram = inputs @ inputs.T / 64
  conditions = theory.Conditions(
    2, 4096, 16, 64, theory.typical_correlation(inputs)
  )
  law, _ = theory.laws(lambda x: x, 0.0, 0.0, conditions)
  std = math.sqrt(2 / 4096 * (gram**2).mean() / 16)
  np.testing.assert_allclose(
    ends(law, conditions)[1], 3 * std / math.log(2), rtol=4 / 4096
  )
  assert conditions.correlation > 0.2  # much more than if they were white noise


def test_the_band_of_orthogonal_weights_holds_their_exact_law():
  """From infinite width to the lower edge of that of Gaussian weights."""
  conditions = ONE_INPUT._replace(depth=100)
  law, _ = theory.laws(jax.nn.relu, 1.0, 0.0, conditions)
  middle, half_width = ends(law, conditions, drift_is_bound=True)
  exact = meanfield.relu_log_norm(99, 128, "orthogonal")
  std = exact.std / math.log(2) / 3
  assert abs(exact.mean / math.log(2) - middle) + 3 * std < half_width
  gaussian, spread = ends(law, conditions)
  np.testing.assert_allclose(middle - half_width, gaussian - spread)
  np.testing.assert_allclose(middle + half_width, spread)


def test_one_compilation_per_activation():
  main.send.clear_cache()
  config = main.Config(
    **SMALL,
    activations=("relu", "tanh"),
    initializers=("He fan_in", "own gain"),
    dataset="synthetic",
  )
  done = []
  job = Job(advance=lambda label, total, **_: done.append((label, total)))
  records = main.run(config, job)["records"]
  assert len(records) == 4
  assert [total for _, total in done] == [2] * 2 + [4] * 4 + [2] * 2
  assert main.send._cache_size() == 2


@pytest.mark.slow
def test_networks_differ_by_the_exact_law_and_delta_orthogonal_ones_do_not():
  """Four standard errors of a variance over 256 networks; and, where one
  network is made to lose 2^-0.01 in all, the claim notices."""
  found = extremes.measure(jax.random.key(0), 256, 10, 16, 20, Job())
  law = meanfield.relu_log_norm(10, 16).std ** 2
  away = np.var(found["log_sizes"], ddof=1) - law
  assert abs(away) < 4 * law * math.sqrt(2 / 255)
  variance, thousands = extremes.claims(found)
  assert variance.published == 5 * 10 / 16
  assert thousands.agrees
  lossy = found | {"convolved": found["convolved"] - 0.01}
  assert not extremes.claims(lossy)[1].agrees


@pytest.fixture(scope="module")
def relu_records():
  config = main.Config(
    depth=100, width=64, seeds=8, batch=8, activations=("relu",),
    initializers=("Xavier norm.", "He fan_in", "normal 0.01"), **FEW,
  )  # fmt: skip
  return {
    record.initializer: record for record in main.run(config, Job())["records"]
  }


def test_relu_table_says_what_theory_says(relu_records):
  """He and Xavier lie in the band, and it is as wide as chance is.

  A standard error from 8 seeds is off by 1/√14 = 27 %: thrice that.
  """
  for name, factor in (("Xavier norm.", 0.5), ("He fan_in", 1.0)):
    for course in (relu_records[name].forward, relu_records[name].backward):
      assert course.in_band is True
      assert 0.2 < 3 * course.growth_error / course.predicted_band < 1.8
      assert course.predicted_growth < factor  # for it drifts down
  drift = meanfield.relu_log_norm(99, 64).mean / 99
  for name, factor in (("Xavier norm.", 0.5), ("He fan_in", 1.0)):
    np.testing.assert_allclose(
      np.log(relu_records[name].forward.predicted_growth / factor),
      drift,
      rtol=0.25,  # that of one input; a batch follows its largest
    )
  assert relu_records["He fan_in"].forward.verdict.startswith("stable")
  assert relu_records["He fan_in"].backward.verdict.startswith("stable")
  assert relu_records["Xavier norm."].forward.verdict.startswith("vanishes")
  assert relu_records["normal 0.01"].forward.verdict.startswith("zero at")
  assert relu_records["normal 0.01"].backward.verdict == "zero at 99"
  assert relu_records["normal 0.01"].backward.in_band is None


def test_forward_and_backward_match_a_plain_network():
  """The measured numbers equal those of an unrolled network with jax.vjp."""
  config = main.Config(
    depth=6, width=8, seeds=2, batch=4, activations=("tanh",),
    initializers=("He fan_in",), dataset="synthetic",
  )  # fmt: skip
  inputs = datasets.load_inputs("synthetic", 4, 0)
  keys = jax.random.split(jax.random.key(3), config.seeds)
  params = main.draw(
    "truncated", config.depth, config.width, inputs.shape, keys
  )
  factors = main._factors("He fan_in", "tanh", 64, 8)
  cotangent = jax.random.normal(jax.random.key(4), (4, 8))
  forward, backward = main.send("tanh", 8, params, factors, inputs, cotangent)
  kernels = params.kernels[1] * factors[1]

  def plain(nudges):
    z = inputs @ (params.first_kernel[1] * factors[0]) + nudges[0]
    moments = [jnp.mean(z**2)]
    for kernel, nudge in zip(kernels, nudges[1:], strict=True):
      z = jnp.tanh(z) @ kernel + nudge
      moments.append(jnp.mean(z**2))
    return z, jnp.array(moments)

  _, pull_back, moments = jax.vjp(plain, jnp.zeros((6, 4, 8)), has_aux=True)
  (gradients,) = pull_back(cotangent)
  eps = 64 * np.finfo(np.float32).eps  # a few roundings in each of 6 layers
  np.testing.assert_allclose(2 ** forward[1], moments, rtol=eps)
  np.testing.assert_allclose(
    2 ** backward[1], jnp.mean(gradients**2, axis=(1, 2)), rtol=eps
  )


def calm_law(mean):
  """Of a network that follows `mean` by 0.01 bits in every layer."""
  depth = len(mean)
  return theory.Law(mean, np.zeros(depth), 1e-4 * np.eye(depth))


def synthetic_course(per_layer_bits, backward, error=0.0):
  layers = np.arange(50.0)[::-1] if backward else np.arange(50.0)
  measured = np.tile(layers * per_layer_bits, (4, 1))
  alive = records._alive(measured)
  law = calm_law(measured[0] + error * layers / 49)
  conditions = ONE_INPUT._replace(depth=50, seeds=4)
  return records._course(
    measured, alive, law, calm_law(0 * layers), conditions, backward=backward
  )


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
  ("bits", "word"), [(0.0, "stable"), (1.0, "explodes"), (-1.0, "vanishes")]
)
def test_verdicts_in_plain_words(bits, word, backward):
  course = synthetic_course(bits, backward)
  assert course.verdict.startswith(word)
  assert course.in_band is True
  np.testing.assert_allclose(course.growth, 2.0**bits)
  np.testing.assert_allclose(course.predicted_growth, 2.0**bits)
  assert synthetic_course(bits, backward, error=0.1).in_band is False


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
  ("sigmas", "word"),
  [(-3.2, "vanishes"), (-2.8, "stable"), (2.8, "stable"), (3.2, "explodes")],
)
def test_stable_is_what_a_healthy_network_does(sigmas, word, backward):
  """3 std of the exact law of a He ReLU network, known to 3/n = 2 %."""
  conditions = ONE_INPUT._replace(depth=100, seeds=4)
  exact = meanfield.relu_log_norm(99, 128)
  from_where = min(exact.mean, 0.0) if sigmas < 0 else 0.0  # no change is well
  total = (from_where + sigmas * exact.std / 2) / math.log(2)
  steps = np.linspace(0.0, 1.0, 100)[:: -1 if backward else 1]
  verdict = records._verdict(
    np.tile(total * steps, (4, 1)),
    theory.healthy(conditions)[backward],
    conditions,
    backward=backward,
  )
  assert verdict.startswith(word)


@pytest.mark.parametrize(
  ("value", "word"),
  [(-np.inf, "zero"), (np.inf, "overflow"), (np.nan, "overflow")],
)
def test_verdict_names_the_layer_of_death(value, word):
  measured = np.zeros((4, 20))
  measured[:, 12:] = value  # layers 13 to 20, counted from 1
  law = calm_law(np.zeros(20))
  for backward, layer in ((False, 13), (True, 8)):
    verdict = records._verdict(
      measured[:, ::-1] if backward else measured,
      law, ONE_INPUT, backward=backward,
    )  # fmt: skip
    assert verdict == f"{word} at {layer}"


def test_the_table_marks_what_lies_outside():
  for in_full, words in ((True, "explodes 2^+49"), (False, "explodes")):
    inside = views._cells(synthetic_course(1.0, False), in_full)
    outside = views._cells(synthetic_course(1.0, False, error=1.0), in_full)
    assert [str(cell) for cell in inside] == [
      "2.000±.000",
      "2.000±.000 ",
      words,
    ]
    assert str(outside[1]) == "2.028±.000!"  # 2^(1 + 1/49)


def test_a_screen_marks_each_pair_and_says_what_happened():
  keeps, grows, dies = (synthetic_course(bits, False) for bits in (0, 1, -1))
  pairs = {
    ("relu", "He fan_in"): (keeps, keeps),
    ("relu", "Xavier norm."): (dies, dies),
    ("tanh", "own gain"): (keeps, grows),
  }
  given = [records.Record(*pair, 0.0, *both) for pair, both in pairs.items()]
  table = overview.overview(given, ONE_INPUT)
  cells = [[str(cell) for cell in column.cells] for column in table.columns]
  assert cells[1:] == [["= =", "↓ ↓", ""], ["", "", "= ↑"]]
  (column,) = overview.conclusion(given, ONE_INPUT).columns
  said = [str(cell) for cell in column.cells][2:]
  assert len(said) == 3  # none of sigmoid, none of normal(0.01)
  assert "Xavier's halves both (×0.500 a layer)" in said[0]
  assert "the gradient grows (×2.000 a layer)" in said[1]
  assert "signal_propagation.png" in said[2]


def test_where_no_law_holds_the_band_is_that_of_draws():
  """`trajectory` knows no covariance there."""
  conditions = ONE_INPUT._replace(depth=30, width=32)
  for law in theory.laws(jnp.tanh, 1.5, 0.0, conditions):
    assert np.isfinite(law.covariance).all()
  unknown = theory.Band(np.arange(3.0), np.full(3, np.nan))
  assert records._growth(np.ones((4, 3)), 0, 2, unknown)[-1] is None


def test_digits_are_real_standardised_and_of_unit_size():
  inputs = datasets.load_inputs("digits", 200, 0)
  assert inputs.shape == (200, 64)
  np.testing.assert_allclose((inputs**2).mean(axis=1), 1, rtol=1e-5)
  raw = datasets._standardised_digits()
  np.testing.assert_allclose(raw.mean(axis=0), 0, atol=1e-12)
  variances = raw.var(axis=0)
  assert np.all(np.isclose(variances, 1) | (variances == 0))
  assert len({row.tobytes() for row in inputs}) == 200


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"depth": 1}, "depth must be at least 2"),
    ({"seeds": 1}, "seeds must be at least 2"),
    ({"activations": ("rleu",)}, "activations must be among"),
    ({"initializers": ()}, "initializers must not be empty"),
  ],
)
def test_a_wrong_config_says_what_is_wanted(wrong, message):
  with pytest.raises(ValueError, match=message):
    main.Config(**wrong)


def test_too_large_a_batch_says_how_many_there_are():
  with pytest.raises(ValueError, match=r"5000 different .*; digits has 1797"):
    datasets.load_inputs("digits", 5000, 0)


def test_results_never_overwrite(tmp_path):
  first = results.new_directory(str(tmp_path), "run")
  second = results.new_directory(str(tmp_path), "run")
  assert first != second
  path = first / "a.json"
  results.write_json(path, {"x": np.array([1.0, -np.inf])})
  assert json.loads(path.read_text()) == {"x": [1.0, "-inf"]}
  with pytest.raises(FileExistsError, match=r"a\.json already exists"):
    results.write_json(path, {"x": 0})
  assert json.loads(path.read_text()) == {"x": [1.0, "-inf"]}
  assert [item.name for item in first.iterdir()] == ["a.json"]


@pytest.mark.slow
def test_the_script_prints_a_table_and_writes_both_files(tmp_path):
  environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
  command = [sys.executable, "-m", "experiments.signal_propagation"]
  options = [
    "--depth=20", "--width=32", "--seeds=2", "--batch=4",
    "--activations=relu", f"--output_dir={tmp_path}",
  ]  # fmt: skip
  done = subprocess.run(
    [*command, *options], cwd=ROOT, env=environment, capture_output=True,
    text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "…" not in done.stdout  # nothing is cut off at 80 columns
  (directory,) = tmp_path.iterdir()
  content = json.loads((directory / "signal_propagation.json").read_text())
  assert len(content["result"]["records"]) == 8
  for claim in content["claims"]:
    difference = abs(claim["ours"] - claim["published"])
    assert claim["agrees"] == (difference <= claim["error"])
  assert len(content["claims"]) > 1
  course = content["result"]["records"][0]["forward"]
  assert len(course["predicted_log2_band"]) == 20
  figure = (directory / "signal_propagation.png").read_bytes()
  assert figure.startswith(b"\x89PNG")
