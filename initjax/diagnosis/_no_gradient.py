"""Parameters that get no gradient, on this batch and after the others moved."""

import numpy as np

from initjax._sharding import fetched
from initjax.diagnosis._observe import Observed


def still(observed: Observed) -> list[str]:
  """Parameters whose gradient is exactly 0 in every draw; none if not known."""
  norms = fetched(observed.report.gradient_norms or {})
  return [path for path, norm in norms.items() if not np.any(norm)]
