"""Differences between jaxprs in the supported releases of JAX.

In 0.10 a jaxpr and a closed jaxpr are two classes and a scan counts its
operands (`num_consts`, `num_carry`); in 0.12 they are one class, and a scan
keeps the tree of its operands (`ft_in`).
"""

from typing import Any, NamedTuple, Protocol

import numpy as np


class Aval(Protocol):
  """The type of an array."""

  shape: tuple[int, ...]
  dtype: np.dtype


class Atom(Protocol):
  """A variable or a literal."""

  aval: Aval


class Primitive(Protocol):
  """What an equation does."""

  name: str
  multiple_results: bool

  def bind(self, *operands: Any, **params: Any) -> Any:
    """The outputs."""

  def get_bind_params(self, params: dict[str, Any]) -> dict[str, Any]:
    """What `bind` takes, of an equation's parameters."""


class Equation(Protocol):
  """One line of a jaxpr."""

  primitive: Primitive
  params: dict[str, Any]
  invars: list[Atom]
  outvars: list[Atom]
  ctx: Any


class OpenJaxpr(NamedTuple):
  """A jaxpr with the values of its constants, closed or not."""

  jaxpr: Any
  consts: tuple[Any, ...]


def open_jaxpr(jaxpr: Any) -> OpenJaxpr:
  """The parts of a closed jaxpr, or of one that has no constants."""
  consts = tuple(getattr(jaxpr, "consts", ()))
  return OpenJaxpr(getattr(jaxpr, "jaxpr", jaxpr), consts)


def scan_operands(params: dict[str, Any]) -> tuple[int, int]:
  """How many operands of a scan are constants, and how many are carried."""
  if "ft_in" in params:
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)
  return params["num_consts"], params["num_carry"]


def manual_axes(params: dict[str, Any]) -> frozenset[str]:
  """The mesh axes over which a shard_map splits its operands."""
  if "newly_manual_axes" in params:
    return params["newly_manual_axes"]
  return params["manual_axes"]  # until 0.10.0


def sub_jaxprs(params: dict[str, Any]) -> list[Any]:
  """Every jaxpr among the parameters of an equation."""
  found = []
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      closed = hasattr(item, "jaxpr") and hasattr(item, "consts")
      if closed or (hasattr(item, "eqns") and hasattr(item, "invars")):
        found.append(item)
  return found
