"""Own initializations beside `auto_init`: verdicts, and two small models."""

import math

import numpy as np
import pytest

from experiments.own_init import show as views
from experiments.own_init.__main__ import EXPERIMENT, WAYS


def courses(own, other):
  """Losses of one task at the start, 3, and at the end, by seed."""
  ends = {"own": own, "auto_init": other, "calibrate": own}
  return {
    way: {"loss": np.stack([np.full(len(end), 3.0), end], axis=-1)}
    for way, end in ends.items()
  }


OWN = np.array([1.0, 1.2, 0.8, 1.0])


@pytest.mark.parametrize(
  ("other", "verdict"),
  [
    (OWN, "equal"),
    (OWN + 0.039, "equal"),  # 2 % of a drop by 2
    (OWN + 0.041, "worse"),
    (OWN - 0.041, "better"),
    (np.add(OWN, [0.5, -0.3, 0.5, -0.3]), "equal"),  # 2 SE: 0.46
    (np.add(OWN, [0.5, 0.4, 0.5, 0.4]), "worse"),
    (np.full(4, math.nan), "worse"),  # as if nothing had been learnt
  ],
)
def test_pairs_are_compared_within_two_errors_or_a_share_of_the_drop(
  other, verdict
):
  ways = courses(OWN, other)
  assert views.verdict(ways, "auto_init") == verdict
  (claim,) = views.claims({"compared": {"a model": ways}})
  assert claim.agrees == (verdict != "worse")


def test_the_best_rate_is_that_of_the_chosen_seeds():
  loss = np.ones((2, 3, 2, 4))
  loss[0, 2, :, -1] = 0.5
  loss[1, 1, :, -1] = 0.7
  loss[1, 2, 0, -1] = math.nan
  assert views.best_rates((1.0, 2.0, 3.0), loss) == (3.0, 2.0)


def test_auto_init_is_not_worse_where_it_was(result):
  """A tied GPT, which learnt nothing, and 40 layers of tanh."""
  assert [c.quantity for c in EXPERIMENT.claims(result) if not c.agrees] == []
  (table,) = EXPERIMENT.tables(result)
  assert table.row_count == len(result["compared"]) == 2
  EXPERIMENT.figure(result).canvas.draw()
  for ways in result["compared"].values():
    assert tuple(ways) == WAYS
