"""Explains verdicts and the words of reports, for pages and for `--help`."""

GLOSSARY = {
  "fan_in, fan_out": "terms summed into one output of an operation; outputs "
  "that one of its inputs feeds",
  "fed by": "the activation, or else what the operation is applied to",
  "second moment": "the mean square E[x²] of a signal, or of a gradient",
  "chance": "what random weights of this width and depth do to the size of a "
  "signal in a healthy network",
  "edge of chaos": (
    "weights for which gradients neither grow nor shrink with depth: the "
    "border between samples that become alike and samples that become noise"
  ),
}

CATALOGUE = {
  "exploding, vanishing": "the signal, or the gradient, grows or shrinks from "
  "operation to operation, beyond what chance explains",
  "slow drift": (
    "a slight growth or shrinkage: seldom harmful, but an assertion fails"
  ),
  "odd layer": "one layer changes sizes unlike any of its neighbours",
  "non-finite": "infinities or NaN, with the equation in which they arise",
  "underflows to zero": "the dtype cannot hold numbers that small",
  "is cut off": "exactly 0 from some row on, and not because of rounding",
  "no gradient": "parameters that get none, even after the others have moved",
  "dead units": "units that are 0 on every sample",
  "saturation": "a bounded activation whose slope is nearly 0",
  "rank collapse": "samples that differed at first look alike",
  "symmetric units, identical layers, equal rows": "equal parts, which learn "
  "the same",
  "duplicate parameters": "made of the same random numbers",
  "wrong fan": "scaled by a fan that is not the one of its use",
  "small embedding": "rows far below unit size that nothing normalizes",
  "unused parameters": "reach no output",
  "constant kernel": "held by the function itself, so not trained",
  "not followed, not looked at": (
    "parts of the model that could not be read or measured"
  ),
  "input of zeros, constant input, repeated sample, one sample, input of rank "
  "one, unscaled input, ids beyond the vocabulary": (
    "the input, not the weights, explains what is seen"
  ),
}
"""What each kind of verdict says, in a line; kinds that belong together."""
