"""What feeds an operation, as a person would write it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._activations import known_name
from initjax.graph._graph import Feed, Image, Term

if TYPE_CHECKING:
  from initjax.graph._recovered import Step

_ROOM = 16  # for a formula, in the column of a report
_INFIX = {"add": "+", "add_any": "+", "sub": "-", "mul": "·", "div": "/"}
_LONGEST = 48


def fed_by(feed: Feed) -> str:
  """The name of the activation, such as "silu(a)·b", or else what feeds it."""
  name = "identity" if feed.activation is None else known_name(feed.activation)
  terms = feed.stream or ()
  if name == "identity" and len(terms) == 1 and _is_product(terms[0]):
    return "·".join(map(_factor, terms[0].images, "abcdefgh"))
  if name == "identity":
    return feed.reason
  formula = getattr(feed.activation, "__name__", "")
  return name or (formula if len(formula) <= _ROOM else "an activation")


def _is_product(term: Term) -> bool:
  return term.kind == "product" and len(term.images) > 1


def _factor(image: Image, letter: str) -> str:
  name = known_name(image.activation)
  return letter if name == "identity" else f"{name or 'φ'}({letter})"


def formula(steps: "Sequence[Step]", unchanged: frozenset[str]) -> str:
  """Such as "tanh(2·x)"; of long ones the operations in their order.

  Args:
    steps: of the function.
    unchanged: labels of steps that return their first argument.
  """
  # each text, and whether it needs brackets within another
  texts: list[tuple[str, bool]] = [("x", False)]
  labels: list[str] = []
  for step in steps:
    given = [
      (_number(number), False) if number is not None else texts[place]
      for number, place in zip(step.numbers, step.arguments, strict=True)
    ]
    if step.label in unchanged or step.label == "convert_element_type":
      texts.append(given[0])
      continue
    labels.append(step.label)
    texts.append(_applied(step, given))
  if len(texts[-1][0]) <= _LONGEST:
    return texts[-1][0]
  listed = ", ".join(labels[:8])
  return f"made of {listed}{', …' if len(labels) > 8 else ''}"


def _applied(step: "Step", given: list[tuple[str, bool]]) -> tuple[str, bool]:
  within = [f"({text})" if brackets else text for text, brackets in given]
  if step.label in _INFIX and len(within) == 2:
    return _INFIX[step.label].join(within), True
  if step.label == "integer_pow":
    return f"{within[0]}^{step.params['y']}", True
  if step.label == "square":
    return f"{within[0]}^2", True
  if step.label == "pow":
    return "^".join(within), True
  return f"{step.label}({', '.join(text for text, _ in given)})", False


def _number(number: Any) -> str:
  x = np.asarray(number)
  return f"{float(x):g}" if x.ndim == 0 and x.dtype.kind in "fiu" else str(x)
