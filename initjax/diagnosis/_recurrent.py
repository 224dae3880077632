"""What a recurrence does to its signal and gradient, and how to fix it.

References: Gers, Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and
Sutskever 2015; Le, Jaitly and Hinton 2015.
"""

from collections.abc import Iterable

from initjax.diagnosis._fixes import fix

_GATES = {  # name of a kernel of each cell, and of the bias that keeps a state
  "LSTM": ("hf", "hf", "forget"),
  "GRU": ("hz", "iz", "update"),
}


def in_time(
  direction: str, growth: float, paths: Iterable[str]
) -> tuple[str, str]:
  """The cause of a growth over time steps, and its fix."""
  cause = (
    "These are time steps of one recurrence, which multiplies the "
    f"{'gradient' if direction == 'backward' else 'signal'} by the same "
    "kernels at every step."
  )
  gate = _gate(paths) if growth < 0 else None
  if gate is not None:
    line, cell, name = gate
    cause += (
      f" Its {name} gate is half open at initialization, so that the {cell} "
      "forgets half of its state at each step."
    )
    return cause, fix(line, "a gate that starts open remembers more steps")
  return cause, fix(
    "recurrent_kernel_init=initjax.initializers.orthogonal()",
    "or fewer time steps, or a gated cell (nn.GRUCell, nn.OptimizedLSTMCell)",
  )


def _gate(paths: Iterable[str]) -> tuple[str, str, str] | None:
  """The line that opens the gate, the cell, and the gate's name, if known."""
  for path in paths:
    *outer, kernel = path.split("/")
    for cell, (found, bias, name) in _GATES.items():
      if outer and outer[-1] == found and kernel == "kernel":
        keys = (*outer[:-1], bias, "bias")
        where = "".join(f'["{key}"]' for key in keys)
        return f"variables{where} += 1.0", cell, name
  return None
