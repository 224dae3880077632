"""The plan that `mup` makes: it prints, draws, rescales and trains."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any, Literal

import jax
from etils import epath

from initjax._checks import check_choice, check_key, check_number, type_of
from initjax._paths import is_float, paths_of, short_path
from initjax.parametrization._muon import dimension_numbers, muon_steps
from initjax.parametrization._optimizer import (
  check_optimizer,
  clipped,
  known_paths,
  outside,
  shapes_of,
  stateless,
  wrapped,
)
from initjax.parametrization._probe import Found, kinds
from initjax.parametrization._rescale import of_path, rescaled, rescaled_draw
from initjax.parametrization._scaling import (
  Kind,
  Scaling,
  Steps,
  as_json,
  of_json,
)
from initjax.parametrization._tables import plan_table
from initjax.reports import TextTable, write_json
from initjax.typing import Numbers, Record

Decay = Literal["fixed_timescale", "with_rate"]
_KINDS = ("adam", "sgd", "parameter_scaled", "muon")
_FACTORS = (
  "init",
  "adam",
  "sgd",
  "eps",
  "parameter_scaled",
  "muon",
  "absorbed",
)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Parametrization:
  """How every leaf's initial size and rate follow from those of a base.

  `print(plan)` shows a table. See `initjax.mup`.
  """

  rows: tuple[Scaling, ...]
  """of each leaf of floats, in the order of the tree"""
  notes: tuple[str, ...] = ()
  """what was assumed, and what to look at"""
  incomplete: tuple[str, ...] = ()
  """what no leaf can take over: the line to write in the model"""
  draw: Callable[[jax.Array], Any] | None = None
  """the model's own init(key)"""
  shapes: Any = None
  """the tree, abstract"""

  @functools.cached_property
  def table(self) -> dict[str, Scaling]:
    """The rows by path."""
    return {row.path: row for row in self.rows}

  def __getitem__(self, path: str) -> Scaling:
    """The row of a leaf, by its path, whole or short.

    Raises:
      KeyError: if there is none, or more than one.
    """
    short = [row for row in self.rows if short_path(row.path) == path]
    if path not in self.table and len(short) == 1:
      return short[0]
    return of_path(path, self.table)

  # Initial weights

  def init(self, key: jax.Array) -> Any:
    """Returns `rescale(init(key))`: initial parameters of the right size.

    It may be called within `jax.jit`, `jax.vmap` and `jax.eval_shape`. There,
    nothing can be raised about values: a leaf that starts at 0 in the base is
    set to 0.

    Args:
      key: for the model's own init, which `mup(..., init=...)` was given.

    Raises:
      ValueError: if there is no init, or the base's sizes are unknown.
    """
    check_key(key)
    if self.draw is None:
      raise ValueError(
        "the plan has no init: pass mup(..., init=key → parameters), or draw "
        "parameters yourself and plan.rescale(parameters)."
      )
    return rescaled_draw(self.draw(key), self.table)

  def rescale(self, params: Any) -> Any:
    """Brings each leaf of the initial parameters to the right size.

        rms(leaf) = rms(leaf of the base) · init · absorbed

    Leaves that start at 0 stay at 0. A leaf that already has the right size, up
    to chance, is multiplied only by what it absorbs, so that ones stay equal.

    Args:
      params: concrete initial parameters of the model, not trained ones.

    Raises:
      ValueError: if the sizes of the base are unknown, or the parameters have
        already been rescaled.
      KeyError: if the plan does not contain a leaf.
    """
    return rescaled(params, self.table)

  # Training

  def optimizer(
    self,
    tx: Any,
    *,
    kind: Kind | None = None,
    decay: Decay = "fixed_timescale",
  ) -> Any:
    """Returns your optax transformation, with the rate and ε of each leaf.

        u = b·tx.update(a·g, state, θ/b),  tx.init(θ/b)

    where b is the rate and a the inverse factor of ε, times what was absorbed.
    The state is that of `tx`; the factors are constants outside it, so existing
    checkpoints load.

    Args:
      tx: a whole optimizer, such as `optax.adamw(1e-3)`. At the base's width it
        is used as it is. Its rate may be traced, as under `jax.vmap`.
      kind: how `tx` responds to the size of gradients; if None, `tx` is tried
        on a small tree of your parameters, leaf by leaf.
      decay: what decoupled decay λ inside `tx`, with rate η, subtracts in one
        step. "fixed_timescale", which the formula above gives: ηλθ, whatever
        the leaf's factors (Wang & Aitchison 2024); "with_rate": ηλθ times the
        leaf's rate relative to the base, as when torch's AdamW is given groups
        with different rates.

    Raises:
      TypeError: if `tx` is not an optax transformation.
      ValueError: if `tx` cannot be tried; in that case pass `kind`.

    >>> import jax.numpy as jnp, initjax, optax
    >>> fn = lambda params, x: jnp.tanh(x @ params["in"]) @ params["out"]
    >>> shapes = lambda n: {"in": jnp.ones((3, n)), "out": jnp.ones((n, 2))}
    >>> x = jnp.ones((5, 3))
    >>> plan = initjax.mup(fn, shapes(64), x, base=(fn, shapes(16), x))
    >>> tx = plan.optimizer(optax.sgd(0.1))
    >>> updates, _ = tx.update(shapes(64), tx.init(shapes(64)), shapes(64))
    >>> [float(update[0, 0]) for update in updates.values()]
    [-0.4000000059604645, -0.02500000037252903]
    """
    check_choice("decay", decay, ("fixed_timescale", "with_rate"))
    check_optimizer(tx)
    if kind is not None:
      check_choice("kind", kind, _KINDS)
    known = {} if kind else self._kinds(tx)

    def steps(tree: Any) -> dict[str, Steps]:
      if not known and not kind:
        known.update(kinds(tx, tree, self.__getitem__))
      every = {p: self._step(p, kind, known) for p in known_paths(tree)}
      if decay == "fixed_timescale":
        return every
      return {
        p: step._replace(parameter=self[p].absorbed)
        for p, step in every.items()
      }

    return wrapped(tx, steps)

  def evaluation_params(
    self, state: Any, params: Any, *, kind: Kind = "adam"
  ) -> Any:
    """Returns the parameters to evaluate in schedule-free training.

    The state is in the units of `tx`, θ/b. Applying optax's own function to it
    and to the parameters gives a wrong result; this method gives the right one.

    Args:
      state: optax's `ScheduleFreeState`, from `plan.optimizer(tx)`.
      params: the parameters that are being trained.
      kind: the kind of the optimizer: "sgd" for `schedule_free_sgd`.

    Raises:
      TypeError: if the state is of another type, such as that of a whole chain.

    >>> import jax.numpy as jnp, initjax, optax
    >>> fn = lambda params, x: jnp.tanh(x @ params["in"]) @ params["out"]
    >>> shapes = lambda n: {"in": jnp.ones((3, n)), "out": jnp.ones((n, 2))}
    >>> x = jnp.ones((5, 3))
    >>> plan = initjax.mup(fn, shapes(64), x, base=(fn, shapes(16), x))
    >>> tx = plan.optimizer(optax.contrib.schedule_free_adamw(), kind="adam")
    >>> found = plan.evaluation_params(tx.init(shapes(64)), shapes(64))
    >>> bool(jnp.allclose(found["out"], 1))  # before the first step
    True
    """
    from optax.contrib import ScheduleFreeState, schedule_free_eval_params

    if not isinstance(state, ScheduleFreeState):
      raise TypeError(
        "evaluation_params expects optax.contrib's ScheduleFreeState; got "
        f"{type_of(state)}. Of a chain, give the part that is one."
      )
    steps = {row.path: row.steps(kind) for row in self.rows}
    state = state._replace(z=outside(state.z, steps))
    return schedule_free_eval_params(state, params)

  def _kinds(self, tx: Any) -> dict[str, Found]:
    """Of leaves, where the tree is known; it may be tried without "params"."""
    inner, row_of = self.shapes, self.__getitem__
    if inner is None:
      return {}
    if isinstance(inner, dict) and set(inner) == {"params"}:
      with contextlib.suppress(ValueError):
        return kinds(tx, inner["params"], row_of)
    return kinds(tx, inner, row_of)

  def _step(
    self, path: str, kind: Kind | None, found: dict[str, Found]
  ) -> Steps:
    names = (path, path.removeprefix("params/"), f"params/{path}")
    known = [found[name] for name in names if name in found]
    own = Found(kind) if kind else (known or [Found("adam")])[0]
    row = self[path]
    return (
      muon_steps(row, own.law) if own.kind == "muon" else row.steps(own.kind)
    )

  def muon_weight_dimension_numbers(self, params: Any) -> Any:
    """For `optax.contrib.muon`: hidden kernels use Muon, all others Adam.

    For 3-D and stacked kernels, it states which axes are summed in their use.

    Args:
      params: the tree that the optimizer is given.

    >>> import jax.numpy as jnp, initjax
    >>> fn = lambda w, x: jnp.tanh(jnp.tanh(x @ w[0]) @ w[1]) @ w[2]
    >>> shapes = lambda n: [jnp.ones(s) for s in ((3, n), (n, n), (n, 2))]
    >>> x = jnp.ones((5, 3))
    >>> plan = initjax.mup(fn, shapes(64), x, base=(fn, shapes(16), x))
    >>> plan.muon_weight_dimension_numbers(shapes(64))
    [None, MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,)), None]
    """
    leaves, structure = jax.tree.flatten(params)
    rows = [
      self[p] if is_float(x) else None
      for p, x in zip(paths_of(params), leaves, strict=True)
    ]
    numbers = [row and dimension_numbers(row) for row in rows]
    return jax.tree.unflatten(structure, numbers)

  def scale_gradients(self, kind: Kind = "adam") -> Any:
    """Scales gradients: put it first in an optimizer chain of your own.

    Args:
      kind: the kind of the optimizer that follows.
    """
    return stateless({row.path: row.steps(kind).gradient for row in self.rows})

  def scale_updates(self, kind: Kind = "adam") -> Any:
    """Scales updates: put it after what adapts them and before decay.

    Args:
      kind: the kind of the optimizer before it.
    """
    return stateless({row.path: row.steps(kind).update for row in self.rows})

  def clip_by_global_norm(self, max_norm: float) -> Any:
    """Clips by the gradient norm that the multipliers themselves would give.

    Put it before `plan.optimizer(tx)` in `optax.chain`: clipping inside `tx`
    would see the norm of gradients that have been scaled for it.

    Args:
      max_norm: the largest norm, > 0.
    """
    check_number("max_norm", max_norm, low=0, open_low=True)
    return clipped(max_norm, {row.path: row.absorbed for row in self.rows})

  # For people and files

  def to_records(self) -> list[Record]:
    """Returns a plain dict for each leaf."""
    return [
      {
        **row._asdict(),
        **{name: as_json(getattr(row, name)) for name in _FACTORS},
      }
      for row in self.rows
    ]

  def to_json(self, path: epath.PathLike) -> None:
    """Writes everything needed to rescale and to train without the base.

    Raises:
      FileExistsError: if the file already exists; nothing is overwritten.
    """
    content = {
      "format": 1,
      "rows": self.to_records(),
      "notes": self.notes,
      "incomplete": self.incomplete,
    }
    write_json(path, content)

  @classmethod
  def from_json(
    cls,
    path: epath.PathLike,
    *,
    init: Callable[[jax.Array], Any] | None = None,
  ) -> "Parametrization":
    """Reads what `to_json` wrote.

    Args:
      path: the path of the file.
      init: the model's own init, for `plan.init`.

    Raises:
      ValueError: if the file is not a plan in this format.
    """
    content = json.loads(epath.Path(path).read_text())
    if not isinstance(content, dict) or content.get("format") != 1:
      raise ValueError(f"{path} holds no plan of format 1, as to_json writes.")
    rows = tuple(map(_row, content["rows"]))
    notes, incomplete = content["notes"], content["incomplete"]
    return cls(rows, tuple(notes), tuple(incomplete), init)

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Parametrization):
      return NotImplemented
    said = self.notes, self.incomplete
    same = said == (other.notes, other.incomplete)
    return same and self.to_records() == other.to_records()

  def __hash__(self) -> int:
    return hash((tuple(row.path for row in self.rows), self.notes))

  def __repr__(self) -> str:
    """Short: how much is scaled; `print` shows all."""
    scaled = sum(row.role not in ("fixed", "unknown") for row in self.rows)
    said = f"{len(self.rows)} leaves, {scaled} scaled, {len(self.notes)} notes"
    incomplete = f", {len(self.incomplete)} incomplete" * bool(self.incomplete)
    return f"Parametrization({said}{incomplete})"

  def __str__(self) -> str:
    return str(self.__rich__())

  def to_text(self, width: int = 100, encoding: str = "utf-8") -> str:
    """Returns the table as plain text, with no line wider than `width`.

    Args:
      width: in characters; if the columns do not fit, rows become a list.
      encoding: the encoding of the destination.

    Raises:
      ValueError: if `width` is too small.
    """
    return self.__rich__().to_text(width, encoding)

  def __rich__(self) -> TextTable:
    return plan_table(self.rows, self.notes, self.incomplete)


def _row(record: dict[str, Any]) -> Scaling:
  """Of a record; lists are factors, shapes and axes."""
  axes = ("shape", "base_shape", "in_axes", "out_axes")
  tuples = {name: record[name] and tuple(record[name]) for name in axes}
  tuples |= {name: tuple(record[name]) for name in axes[:2]}
  factors: dict[str, Numbers] = {n: of_json(record[n]) for n in _FACTORS}
  return Scaling(**{**record, **tuples, **factors})


def with_shapes(plan: Parametrization, params: Any) -> Parametrization:
  """The plan, with the tree that it is for."""
  return dataclasses.replace(plan, shapes=shapes_of(params))
