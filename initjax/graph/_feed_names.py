"""What feeds an operation, in the words of a table."""

from initjax._activations import known_name
from initjax.graph._graph import Feed, Image

_ROOM = 16  # for a formula, in the column of a report


def fed_by(feed: Feed) -> str:
  """The name of the activation, such as "silu(a)·b", or else what feeds it."""
  name = "identity" if feed.activation is None else known_name(feed.activation)
  terms = feed.stream or ()
  if name == "identity" and len(terms) == 1 and len(terms[0].images) > 1:
    return "·".join(map(_factor, terms[0].images, "abcdefgh"))
  if name == "identity":
    return feed.reason
  formula = getattr(feed.activation, "__name__", "")
  return name or (formula if len(formula) <= _ROOM else "an activation")


def _factor(image: Image, letter: str) -> str:
  name = known_name(image.activation)
  return letter if name == "identity" else f"{name or 'φ'}({letter})"
