"""The assertion that training changes signals alike at all widths."""

from collections.abc import Callable, Sequence

import jax

from initjax.parametrization import CoordinateCheck, Setup, coordinate_check
from initjax.testing._findings import Finding, raise_all, table_of
from initjax.typing import Verdict

_FATAL = ("no change", "incomplete plan")
_MOST_LINES = 8


def assert_width_stable(
  build: Callable[[int], Setup],
  widths: Sequence[int] = (64, 128, 256, 512),
  steps: int = 4,
  seeds: int = 4,
  *,
  key: jax.Array | None = None,
) -> None:
  """Asserts that training moves every signal alike, whatever the width.

  This is what lets a learning rate transfer from a narrow model to a wide one.
  See `initjax.coordinate_check` for what is measured and which exponents of
  width are accepted: those between −0.20 and +0.10, or between −0.6 and +0.10
  for attention scores and for readouts that do not start at 0.

  Args:
    build: width → `initjax.parametrization.Setup(loss, init, optimizer, batch,
      plan=None)`.
    widths: from narrow to wide.
    steps: the number of training steps, at a quarter of the best rate or less.
    seeds: the number of models at each width.
    key: the key from which seeds are drawn.

  Raises:
    AssertionError: with every operation whose size depends on width, the cause
      and the fix; or if nothing changed, or training diverged.
    ValueError: if the models cannot be compared.

  Warns:
    UserWarning: if nothing is found, but some parameters were not followed.

  >>> import initjax, jax, jax.numpy as jnp, optax
  >>> model = lambda w, x: jnp.tanh(x @ w["in"]) @ w["out"]
  >>> x = jax.random.normal(jax.random.key(1), (8, 3))
  >>> loss = lambda w, x: jnp.mean((model(w, x) - 1) ** 2)
  >>> def build(n):
  ...   draw = lambda key: {"in": jax.random.normal(key, (3, n)),
  ...                       "out": jnp.zeros((n, 1))}
  ...   return initjax.parametrization.Setup(loss, draw, optax.adam(0.01), x)
  >>> assert_width_stable(build, widths=(32, 128), steps=2, seeds=2)
  Traceback (most recent call last):
    ...
  AssertionError: Grows with width at out: 1 of 2 operations leave what is...

  Reference: Yang et al. 2022, "Tensor Programs V", Appendix D.1.
  """
  check = coordinate_check(build, widths, steps, seeds, key=key)
  findings = [
    _finding(check, verdict)
    for verdict in check.verdicts
    if verdict.severity == "error" or verdict.kind in _FATAL
  ]
  raise_all(findings, check.not_followed, stacklevel=3)


def _finding(check: CoordinateCheck, verdict: Verdict) -> Finding:
  """A verdict, with the exponents of the rows that show it."""
  records = check.to_records()
  lines = [
    (record["path"], *(_last(record, noun) for noun in ("signal", "change")))
    for record in (records[row] for row in verdict.rows[:_MOST_LINES])
  ]
  where = f" at {verdict.path}" if verdict.path else ""
  message = f"{verdict.kind.capitalize()}{where}: {verdict.message}"
  header = ("operation", "signal's exponent", "change's exponent")
  return Finding(message, table_of(header, lines), verdict.fix)


def _last(record: dict, noun: str) -> str:
  """After the last step."""
  exponent, error = (record[f"{noun}_{x}"][-1] for x in ("exponent", "error"))
  return f"{exponent:+.2f} ± {error:.2f}"
