"""Common mistakes in calls, with the line to write instead.

The original error is raised, and a note below it says what to write.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

from initjax._paths import leaves_by_path
from initjax.graph._frameworks import is_model, is_unbound

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

_BY_ERROR = {
  "InvalidRngError": (
    "the model draws random numbers; give it a key for them: "
    'functools.partial(model.apply, rngs={"dropout": key}), or switch them '
    "off, as in functools.partial(model.apply, train=False)"
  ),
  "ModifyScopeVariableError": (
    "the model updates some of its variables; say which, and that they are "
    "returned beside the outputs: functools.partial(model.apply, "
    "mutable=['batch_stats']) and has_aux=True"
  ),
}


def with_advice(verb: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
  """A verb whose errors end with the line to write, for common slips."""

  @functools.wraps(verb)
  def call(*args: _Given.args, **options: _Given.kwargs) -> _Result:
    try:
      return verb(*args, **options)
    except Exception as error:
      told = getattr(error, "__notes__", [])
      if not any(str(note).startswith(_START) for note in told):
        said = next(_advice(error, verb, args, options), "")
        if said:
          error.add_note(_START + said + ".")
      raise

  return call


_START = "initjax: "


def _advice(
  error: Exception,
  verb: Callable[..., Any],
  args: tuple[Any, ...],
  options: Mapping[str, Any],
) -> Iterator[str]:
  """What may help, the surest first."""
  name = getattr(verb, "__name__", "diagnose")
  known = inspect.signature(verb).parameters
  unknown = {key: x for key, x in options.items() if key not in known}
  if isinstance(error, TypeError) and unknown:
    given = ", ".join(f"{key}={value!r}" for key, value in unknown.items())
    within = _PARTIAL.format(given)
    yield f"put keyword arguments of the model into the function: {within}"
  if next(iter(known)) == "key":
    args = args[1:]
  yield from _of_functions(name, args)
  yield from _of_strings(args)
  yield from filter(None, [_BY_ERROR.get(type(error).__name__)])
  if isinstance(error, TypeError) and "required positional" in str(error):
    yield (
      "an argument of the model is missing: pass it after params, or by "
      f"keyword: {_PARTIAL.format('train=False')}"
    )


_PARTIAL = "functools.partial(model.apply, {})"


def _of_functions(name: str, args: tuple[Any, ...]) -> Iterator[str]:
  """Of a TrainState, a wrong order, and parameters out of their dict."""
  is_function = [callable(x) or is_model(x) or is_unbound(x) for x in args]
  states = [x for x in args if hasattr(x, "apply_fn") and hasattr(x, "params")]
  if states:
    yield (
      f'pass the parts of a TrainState: {name}(state.apply_fn, {{"params": '
      "state.params}, *inputs)"
    )
  if True in is_function[1:] and not is_function[0]:
    yield f"the function comes first: {name}(fn, params, *inputs)"
  if is_function[:1] == [True] and len(args) > 1:
    module = getattr(args[0], "__self__", args[0])
    if is_unbound(module):
      yield from _of_variables(name, *args[1:])


def _of_variables(name: str, given: Any, *inputs: Any) -> Iterator[str]:
  if isinstance(given, Mapping) and "params" not in given:
    yield f'wrap the parameters: {name}(fn, {{"params": params}}, *inputs)'
  others = [each for each in inputs if isinstance(each, Mapping)]
  if others and not isinstance(given, Mapping):
    yield f"the parameters come second: {name}(fn, params, *inputs)"


def _of_strings(args: tuple[Any, ...]) -> Iterator[str]:
  for place, given in enumerate(args[1:]):
    for path, leaf in leaves_by_path(given).items():
      if isinstance(leaf, str | bytes):
        where = f"input {place - 1}" if place else "params"
        yield (
          f"{where} holds a string at {path!r}; leave it out, since only "
          "arrays can be traced"
        )
