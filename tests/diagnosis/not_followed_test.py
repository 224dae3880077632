"""Every report, plan, calibration and assertion says what was not followed."""

import json
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import KEY, X, normal

import initjax
from initjax import testing

PARAMS = {
  "in": normal(64, 64, variance=1 / 64),
  "solved": np.eye(64, dtype=np.float32),
  "out": normal(64, 64, variance=2 / 64, seed=2),
}
WORDS = (
  "1 parameter is used in a way that is not followed: solved (triangular_solve)"
)
ASSERTIONS = (
  testing.assert_healthy,
  testing.assert_variance_stable,
  testing.assert_gradients_flow,
  testing.assert_no_dead_units,
  testing.assert_symmetry_broken,
  testing.assert_finite_signal,
)


def model(params, x):
  h = x @ params["in"]
  solve = jax.scipy.linalg.solve_triangular
  h = jax.nn.relu(solve(params["solved"], h.T).T)
  return h @ params["out"]


def alone(params, x):
  return jax.scipy.linalg.solve_triangular(params["solved"], x.T).T


def said(report):
  return " ".join(str(report).split())


def test_a_report_says_so_and_calls_nothing_healthy():
  judged, measured = (
    verb(model, PARAMS, X) for verb in (initjax.diagnose, initjax.measure)
  )
  (verdict,) = judged.verdicts
  assert (verdict.kind, verdict.severity) == ("not followed", "note")
  assert (verdict.path, judged.judged) == ("solved", True)
  for report in (judged, measured, initjax.diagnose(alone, PARAMS, X)):
    assert WORDS in said(report)
    assert WORDS in report._repr_html_()
    assert "healthy" not in str(report)
    assert 'class="healthy"' not in report._repr_html_()
    assert pickle.loads(pickle.dumps(report)).graph == report.graph
  jitted = jax.jit(lambda x: initjax.measure(model, PARAMS, x))(X)
  assert jitted.graph.not_followed == {"solved": "triangular_solve"}
  assert hash(jitted.graph) == hash(measured.graph)


def test_so_does_the_file(tmp_path):
  initjax.diagnose(model, PARAMS, X).to_json(tmp_path / "report.json")
  content = json.loads((tmp_path / "report.json").read_text())
  assert content["not_followed"] == {"solved": "triangular_solve"}
  initjax.measure(model, PARAMS, X).to_html(tmp_path / "report.html")
  assert WORDS in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_records_alone_are_told_of_it(encoding):
  report = initjax.measure(model, PARAMS, X)
  options = {"missed": report.graph.not_followed, "encoding": encoding}
  text = initjax.reports.to_text(report.to_records(), [], width=60, **options)
  assert "no problems found in 2 operations; 1 parameter" in said(text)


def test_plan_and_calibration_say_so():
  assert WORDS in said(initjax.plan_init(model, PARAMS, X))
  _, info = initjax.calibrate(model, PARAMS, X)
  assert WORDS in said(info)


@pytest.mark.parametrize(
  "verb", [initjax.calibrate, initjax.plan_init, testing.assert_orthogonal]
)
def test_a_refusal_says_so(verb):
  with pytest.raises(ValueError, match=r"is not followed: solved \(tri"):
    verb(alone, PARAMS, X)


@pytest.mark.parametrize("check", ASSERTIONS)
def test_an_assertion_warns_fails_or_raises_with_it(check):
  with pytest.warns(UserWarning, match="but 1 parameter is used") as caught:
    check(model, PARAMS, X)
  assert caught[0].filename == __file__
  with pytest.raises(AssertionError, match=r"(?s)^Nothing to judge.*solved"):
    check(alone, PARAMS, X)
  broken = {**PARAMS, "out": np.full((64, 64), np.nan, np.float32)}
  if check in ASSERTIONS[:1] + ASSERTIONS[-1:]:
    with pytest.raises(AssertionError, match=r"(?s)^Non-finite.*\n\n1 param"):
      check(model, broken, X)


def test_orthogonal_kernels_are_those_that_were_seen():
  square = np.linalg.qr(PARAMS["in"])[0]
  params = {**PARAMS, "in": square, "out": square}
  with pytest.warns(UserWarning, match="not followed: solved") as caught:
    testing.assert_orthogonal(model, params, X)
  assert caught[0].filename == __file__
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    testing.assert_orthogonal(model, params, X, where=["in", "out"])
  with pytest.raises(AssertionError, match=r"\n\n1 parameter is used"):
    testing.assert_orthogonal(model, PARAMS, X)


def test_theory_does_not_pass_it():
  """The gradient goes through the solve as well."""
  found = initjax.predict(model, PARAMS, X)
  assert np.isnan(found.backward[0])
  drawn = initjax.auto_init(KEY, model, PARAMS, X)
  np.testing.assert_array_equal(drawn["solved"], PARAMS["solved"])


def test_many_are_counted():
  many = {f"w{i}": PARAMS["solved"] for i in range(6)}

  def model(params, x):
    for w in params.values():
      x = jax.scipy.linalg.solve_triangular(w, x)
    return jnp.tanh(x)

  words = said(initjax.diagnose(model, many, X.T))
  assert "6 parameters are used in a way that is not followed: w0" in words
  assert "w3 (triangular_solve) and 2 more" in words
