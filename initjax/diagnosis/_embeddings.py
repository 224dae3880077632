"""Verdicts on embeddings with small rows that nothing normalizes.

BERT, GPT-2 and T5 draw embeddings small and normalize them before use; a
recurrent cell or a plain network reads them as they are.
"""

import math
from collections.abc import Iterator

from initjax.diagnosis._fixes import fix
from initjax.graph import Stream
from initjax.measurement import RowStatistics
from initjax.typing import Verdict

_SMALL = 0.1  # root mean square of an entry


def check_embeddings(found: RowStatistics) -> Iterator[Verdict]:
  """A note for each embedding that is small, and read as it is."""
  sizes = found.forward.log2_second_moment
  for at, row in enumerate(found.rows):
    if row.op.kind != "embedding" or not math.isfinite(sizes[at]):
      continue
    rms = 2 ** (sizes[at] / 2)
    readers = [
      reader
      for reader, other in enumerate(found.rows)
      if reader > at and _reads(other.feed.stream, row.op.place.site)
    ]
    if rms < _SMALL and readers:
      reader = found.rows[readers[0]].op.path
      yield Verdict(
        "small embedding",
        "note",
        row.op.path,
        f"The entries of its rows have a root mean square of {rms:.2g}, and "
        f"nothing normalizes them: {reader} reads them as they are, although "
        "theory and initializers expect about 1.",
        fix(
          "embedding_init=jax.nn.initializers.normal(1.0)",
          "or normalize the rows that are looked up (nn.LayerNorm)",
        ),
        (at, *readers),
      )


def _reads(stream: Stream | None, site: tuple[int, ...]) -> bool:
  """Whether its output is a term, not normalized."""
  return any(t.kind == "output" and t.site == site for t in stream or ())
