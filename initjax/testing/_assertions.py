"""The assertions: each takes one look at a model and raises all violations."""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypedDict, Unpack

import jax

from initjax._checks import check_number
from initjax._statistics import nan_is_unknown
from initjax.diagnosis import (
  ODD,
  Observed,
  allowed_sigmas,
  observe,
  verdicts_on,
  without_detail,
)
from initjax.graph import as_function, with_advice
from initjax.reports import NOUNS, not_followed, nothing_judged
from initjax.testing._findings import Finding, of_drift, of_verdict, raise_all
from initjax.typing import Verdict

_LOST = ("underflows to zero", "is cut off")
_KINDS = {
  "variance": ("exploding signal", "vanishing signal", ODD),
  "gradients": (
    "exploding gradient",
    "vanishing gradient",
    "no gradient",
    ODD,
  ),
  "dead": ("dead units",),
  "symmetry": ("symmetric units", "identical layers", "duplicate parameters"),
  "finite": (
    *(f"non-finite {noun}" for noun in ("parameter", "input", *NOUNS.values())),
    *(f"{noun} {lost}" for noun in NOUNS.values() for lost in _LOST),
  ),
}
_OF_INPUTS = ("non-finite input", "input of zeros", "ids beyond the vocabulary")
"""What explains anything that signals show, which then is not said."""
_CALLER = 6  # who called the assertion, counted from where it warns
_DIRECTION = {"variance": "forward", "gradients": "backward"}


class Options(TypedDict, total=False):
  """What all assertions take besides; as in `initjax.diagnose`."""

  key: jax.Array | None
  cotangent: Any
  has_aux: bool
  init: Callable[[jax.Array], Any] | None
  draws: int | None


@with_advice
def assert_variance_stable(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  false_alarm: float = 0.003,
  target: float | None = None,
  **options: Unpack[Options],
) -> None:
  """Asserts that the signal keeps its size through the depth of a model.

  For a chain of layers, the drift of log₂ E[z²] per layer is estimated from all
  layers by generalized least squares. It must be no larger than chance makes it
  for healthy weights at these widths: for He-ReLU of width n, |log q_L/q_0|
  within about z·√(5L/n) of -5L/(2n). In addition, no single layer may be odd,
  that is, change the size by more than chance and by a factor 1.7 (1.5 bits of
  E[z²]) beyond what its neighbours do. Smaller deviations are not reported,
  because Xavier causes as much where widths change 1:4. For contracting maps
  (tanh), a wrong gain does not make the signal drift, but shifts its fixed
  point; set `target` to check for that. In models of any other shape, growth
  beyond chance and beyond a factor 4 in size fails.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: its parameters; omit them for a module that holds them.
    *inputs: its other arguments.
    false_alarm: the probability that a healthy draw fails, two-sided: half of
      it by a drift, shared among all chains, and half by an odd layer.
    target: the E[h²] of pre-activations, biases included, that the weights
      should maintain, such as `meanfield.critical_point(φ, σ_b²).q`.
    **options: `key` for the random cotangent, `cotangent`, `has_aux`; `init`
      and `draws` for the mean over several draws.

  Raises:
    AssertionError: with every violation, its layers, cause and fix.
    ValueError: if `false_alarm` or `target` is invalid.

  Warns:
    UserWarning: if nothing is found, but some parameters were not followed.

  >>> he = jax.nn.initializers.he_normal()
  >>> model = lambda p, x: jax.nn.relu(x @ p[0]) @ p[1]
  >>> kernels = jax.vmap(lambda key: he(key, (64, 64)))(
  ...   jax.random.split(jax.random.key(0)))
  >>> assert_variance_stable(model, kernels, jax.numpy.ones((8, 64)))

  Reference: Hanin and Nica 2020; Roberts, Yaida and Hanin 2022.
  """
  _raise_findings(
    ("variance",), fn, params, inputs, options, false_alarm, target
  )


@with_advice
def assert_gradients_flow(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  false_alarm: float = 0.003,
  **options: Unpack[Options],
) -> None:
  """Asserts that gradients keep their size all the way back to the input.

  This is `assert_variance_stable` for the sum of squares of the gradient with
  respect to each layer's output: in a chain, it must not drift by more than
  chance allows where χ₁ = σ_w²E[φ'²] = 1. It must not be 0 or infinite
  anywhere. Let `fn` return the outputs rather than a loss: the gradient of a
  loss may be aligned with the outputs and the weights, for which no law is
  known here.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: its parameters; omit them for a module that holds them.
    *inputs: its other arguments.
    false_alarm: the probability that a healthy draw fails, two-sided: half of
      it by a drift, shared among all chains, and half by an odd layer.
    **options: as in `assert_variance_stable`.

  Raises:
    AssertionError: with every violation, its layers, cause and fix.
    ValueError: if `false_alarm` is invalid.

  Warns:
    UserWarning: if nothing is found, but some parameters were not followed.

  >>> kernels = jax.numpy.full((40, 8, 8), 0.01)
  >>> layer = lambda h, kernel: (jax.nn.relu(h @ kernel), None)
  >>> model = lambda p, x: jax.lax.scan(layer, x, p)[0]
  >>> assert_gradients_flow(model, kernels, jax.numpy.ones((4, 8)))
  Traceback (most recent call last):
    ...
  AssertionError: ...radient...

  Reference: Schoenholz et al. 2017; Hanin and Nica 2020.
  """
  _raise_findings(("gradients",), fn, params, inputs, options, false_alarm)


@with_advice
def assert_no_dead_units(
  fn: Callable[..., Any], params: Any, *inputs: Any, **options: Unpack[Options]
) -> None:
  """Asserts that no more units are 0 on every sample than chance explains.

  The expected share follows from the correlation of the samples: it is the
  probability that N jointly normal numbers are all negative. 0.1 and three
  standard deviations over the units are added as a tolerance.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: its parameters; omit them for a module that holds them.
    *inputs: its other arguments.
    **options: as in `assert_variance_stable`.

  Raises:
    AssertionError: with the layers, their number of dead units, and the fix.

  Warns:
    UserWarning: if nothing is found, but some parameters were not followed.

  >>> model = lambda p, x: jax.nn.relu(x @ p["kernel"] + p["bias"]) @ p["out"]
  >>> kernel = jax.random.normal(jax.random.key(0), (8, 64))
  >>> params = {"kernel": kernel, "bias": -100.0, "out": kernel.T}
  >>> assert_no_dead_units(model, params, jax.numpy.ones((4, 8)))
  Traceback (most recent call last):
    ...
  AssertionError: Dead units at out: Many of the units that feed it are 0 on...

  Reference: Lu et al. 2020.
  """
  _raise_findings(("dead",), fn, params, inputs, options)


@with_advice
def assert_symmetry_broken(
  fn: Callable[..., Any], params: Any, *inputs: Any, **options: Unpack[Options]
) -> None:
  """Asserts that no units, layers or kernels are copies that stay copies.

  Fails if columns of a kernel are equal and their units are used alike, if
  layers of a scan were drawn with the same key, and if Flax gave different
  modules equal kernels.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: its parameters; omit them for a module that holds them.
    *inputs: its other arguments.
    **options: as in `assert_variance_stable`.

  Raises:
    AssertionError: with the kernels and the fix.

  Warns:
    UserWarning: if nothing is found, but some parameters were not followed.

  >>> model = lambda p, x: jax.numpy.tanh(x @ p[0]) @ p[1]
  >>> constant = [jax.numpy.ones((8, 8)), jax.numpy.ones((8, 8))]
  >>> assert_symmetry_broken(model, constant, jax.numpy.ones((4, 8)))
  Traceback (most recent call last):
    ...
  AssertionError: Symmetric units at 0: 7 of its 8 columns are copies...

  Reference: Goodfellow, Bengio and Courville 2016, §8.4.
  """
  _raise_findings(("symmetry",), fn, params, inputs, options)


@with_advice
def assert_finite_signal(
  fn: Callable[..., Any], params: Any, *inputs: Any, **options: Unpack[Options]
) -> None:
  """Asserts that signal and gradient are finite and not all 0 everywhere.

  Fails on infinities and NaN in parameters, inputs, outputs of operations and
  gradients, and where all entries are exactly 0, through underflow or for any
  other reason. A branch whose kernel is intentionally zero is accepted.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: its parameters; omit them for a module that holds them.
    *inputs: its other arguments.
    **options: as in `assert_variance_stable`.

  Raises:
    AssertionError: with the first row of each kind, and the fix.

  Warns:
    UserWarning: if nothing is found, but some parameters were not followed.

  >>> model = lambda p, x: jax.numpy.exp(x @ p[0]) @ p[1]
  >>> large = [100 * jax.numpy.eye(8), jax.numpy.eye(8)]
  >>> assert_finite_signal(model, large, jax.numpy.ones((4, 8)))
  Traceback (most recent call last):
    ...
  AssertionError: Non-finite signal at 1: ...

  Reference: Higham 2002, §27.
  """
  _raise_findings(("finite",), fn, params, inputs, options)


@with_advice
def assert_healthy(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  false_alarm: float = 0.003,
  **options: Unpack[Options],
) -> None:
  """Checks all of these assertions, except orthogonality, in one measurement.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: its parameters; omit them for a module that holds them.
    *inputs: its other arguments.
    false_alarm: the probability that a healthy draw fails, split evenly between
      the signal and the gradient.
    **options: as in `assert_variance_stable`.

  Raises:
    AssertionError: with every violation of every kind.
    ValueError: if `false_alarm` is invalid.

  Warns:
    UserWarning: if nothing is found, but some parameters were not followed.

  >>> model = lambda p, x: jax.nn.relu(x @ p[0]) @ p[1]
  >>> he = jax.nn.initializers.he_normal()
  >>> keys = jax.random.split(jax.random.key(0))
  >>> kernels = [he(key, (64, 64)) for key in keys]
  >>> x = jax.random.normal(jax.random.key(1), (8, 64))
  >>> assert_healthy(model, kernels, x)

  Reference: those of the other assertions.
  """
  _raise_findings(tuple(_KINDS), fn, params, inputs, options, false_alarm)


@nan_is_unknown()
def _raise_findings(
  subjects: tuple[str, ...],
  fn: Callable[..., Any],
  params: Any,
  inputs: tuple[Any, ...],
  options: Options,
  false_alarm: float = 0.003,
  target: float | None = None,
) -> None:
  """Raises what is found; subjects that may drift share the alarm."""
  check_number("false_alarm", false_alarm, low=0, open_low=True)
  if false_alarm >= 1:
    raise ValueError(
      f"false_alarm must be a probability below 1; got {false_alarm}."
    )
  if target is not None:
    check_number("target", target, low=0, open_low=True)
  fn, params, inputs, _ = as_function(fn, params, inputs)
  observed = observe(fn, params, inputs, **options)
  nothing = nothing_judged(observed.found.forward.size.tolist())
  missed = observed.found.graph.not_followed
  if nothing:
    words = (nothing.removesuffix("."), not_followed(missed))
    said = "; ".join(filter(None, words))
    raise AssertionError(said[0].upper() + said[1:])
  verdicts = functools.cache(lambda: verdicts_on(observed, inputs))
  each = false_alarm / max(len(_DIRECTION.keys() & subjects), 1)
  found = [
    finding
    for subject in subjects
    for finding in _findings(subject, observed, verdicts, each, target)
  ]
  if len(subjects) == len(_KINDS):
    found += _other_errors(observed, verdicts())
  raise_all(list(dict.fromkeys(found)), missed, stacklevel=_CALLER)
  uncounted = without_detail(observed.found.graph)
  if "dead" in subjects and uncounted:
    warnings.warn(uncounted, stacklevel=_CALLER - 1)


def _other_errors(
  observed: Observed, verdicts: tuple[Verdict, ...]
) -> Iterator[Finding]:
  """What `diagnose` calls an error, and no assertion is about."""
  about = {kind for kinds in _KINDS.values() for kind in kinds}
  for verdict in verdicts:
    if verdict.severity == "error" and verdict.kind not in about:
      yield of_verdict(observed, verdict)


def _findings(
  subject: str,
  observed: Observed,
  verdicts: Callable[[], tuple[Verdict, ...]],
  false_alarm: float,
  target: float | None,
) -> Iterator[Finding]:
  kinds, drifting = _KINDS[subject], set()
  if subject in _DIRECTION:
    direction = _DIRECTION[subject]
    noun = NOUNS[direction]
    for path, finding in _drifts(observed, direction, false_alarm, target):
      drifting |= {(kind, path) for kind in kinds if noun in kind}
      yield finding
    finite = [kind for kind in _KINDS["finite"] if noun in kind]
    kinds += ("non-finite signal", *finite)  # through it no gradient flows
  if subject != "symmetry":
    kinds += _OF_INPUTS
  for verdict in verdicts():
    certain = subject != "symmetry" and verdict.kind != "no gradient"
    grave = verdict.severity == "error" or certain
    wanted = verdict.kind in kinds and verdict.severity != "note"
    if wanted and grave and (verdict.kind, verdict.path) not in drifting:
      yield of_verdict(observed, verdict)


def _drifts(
  observed: Observed, direction: str, false_alarm: float, target: float | None
) -> Iterator[tuple[str, Finding]]:
  """Chains that drift, by the path of the first row that the signal meets."""
  allowed = allowed_sigmas(false_alarm, len(observed.chains))
  for chain in observed.chains:
    drift = observed.drift(chain, direction, target)
    if drift is not None and abs(drift.sigmas) > allowed:
      first = chain.rows[0 if direction == "forward" else -1]
      path = observed.found.rows[first].op.path
      yield path, of_drift(observed, chain, direction, drift, allowed)
