"""audit finds moments, and copies even when scaled."""

import jax
import numpy as np
import pytest
from drawn_by_numpy import normal

from initjax.recipes import audit


def test_moments_against_what_is_expected():
  w = normal(0, 100, 100, scale=0.5)
  (row, zero) = audit(
    {"w": w, "zero": np.zeros(3)}, expected={"w": 0.5, "zero": None}
  ).rows
  np.testing.assert_allclose(row.std, np.std(w.astype(float)), rtol=1e-12)
  assert abs(row.deviation) < 4  # standard errors
  assert (zero.std, zero.expected_std, zero.deviation) == (0.0, None, None)
  assert audit({"w": 2 * w}, expected=0.5).rows[0].deviation > 100


def test_deviations_are_in_standard_errors():
  """Of 400 samples: std 1, to four standard errors √(1/2·400)."""
  samples = normal(2, 400, 1000)
  rows = audit(dict(enumerate(samples)), expected=1.0).rows
  deviations = np.array([row.deviation for row in rows])
  assert abs(deviations.std() - 1) < 4 / np.sqrt(2 * 400)


def test_copies_up_to_scale():
  one, two = normal(1, 2, 8, 8)
  found = audit(
    {"a": one, "b": -3 * one, "c": two, "d": np.ones(9), "e": np.ones(9)}
  )
  assert found.duplicates == (("a", "b"),)
  assert "copies, or drawn with one key: a, b" in str(found)


def test_copies_within_a_leaf():
  experts = np.repeat(normal(3, 1, 8, 8), 4, axis=0)
  found = audit({"experts": experts, "other": normal(4, 4, 8, 8)})
  assert found.equal_slices == (("experts", 0, 4, 1),)
  assert "experts: of 4 slices along axis 0, 1 distinct" in str(found)


def test_what_is_not_looked_at_is_said():
  found = audit({"w": normal(0, 4, 4), "count": np.arange(3)})
  assert found.not_looked_at == ("count",)
  assert "not looked at, since not floating point: count" in str(found)
  assert "only values were looked at" in str(found)
  with pytest.raises(TypeError, match=r"needs values, got .* at w"):
    audit({"w": jax.ShapeDtypeStruct((2,), "float32")})


def test_a_wrong_tree_is_refused():
  with pytest.raises(ValueError, match="standard deviations like params"):
    audit({"w": np.ones(3)}, expected={"v": 1.0})


def test_alike_leaves_fold_and_what_is_unlike_them_shows():
  """Of 300 equal layers few lines are left, the odd one among them."""
  params = {f"layer_{i:03}": {"w": normal(i, 8, 8)} for i in range(300)}
  params["layer_077"]["w"] *= 9
  text = str(audit(params))
  assert len(text.splitlines()) < 20
  assert "layer_077/w" in text
  assert "layer_076/w" not in text
