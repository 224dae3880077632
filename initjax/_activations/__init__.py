"""Activations as functions of one number: traced, and known by name."""

from initjax._activations._names import (
  KNOWN,
  identity,
  is_flat,
  is_of_library,
  known_name,
)
from initjax._activations._traced import (
  BLOCK,
  Evaluate,
  TracedActivation,
  compiled,
  evaluator,
  in_float64,
  name_of,
  trace,
)

__all__ = [
  "BLOCK",
  "KNOWN",
  "Evaluate",
  "TracedActivation",
  "compiled",
  "evaluator",
  "identity",
  "in_float64",
  "is_flat",
  "is_of_library",
  "known_name",
  "name_of",
  "trace",
]
