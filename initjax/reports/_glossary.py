"""Explains verdicts and the words of reports, for pages and for `--help`."""

GLOSSARY = {
  "fan_in, fan_out": "terms summed into one output of an operation; outputs "
  "that one of its inputs feeds",
  "fed by": "the activation, or else what the operation is applied to",
  "second moment": "the mean square E[x²] of a signal, or of a gradient",
  "chance": "what random weights of this width and depth do to the size of a "
  "signal in a healthy network",
  "edge of chaos": "weights for which gradients neither grow nor shrink with "
  "depth: between samples that become alike and noise",
}

CATALOGUE = {
  "exploding, vanishing": "the signal, or the gradient, grows or shrinks from "
  "operation to operation, beyond what chance explains",
  "slow drift": "it does so slightly: seldom harmful, but an assertion fails",
  "odd layer": "one layer changes sizes as none of its neighbours does",
  "non-finite": "infinities or NaN, and the equation in which they arise",
  "underflows to zero": "the dtype holds nothing as small",
  "is cut off": "exactly 0 from some row on, and not by rounding",
  "no gradient": "parameters that get none, also after the others have moved",
  "dead units": "units that are 0 on every sample",
  "saturation": "a bounded activation whose slope is nearly 0",
  "rank collapse": "samples that differed at first look alike",
  "symmetric units, identical layers, equal rows": "equal parts, which learn "
  "the same",
  "duplicate parameters": "made of the same random numbers",
  "wrong fan": "scaled by another fan than that of its use",
  "small embedding": "rows far below unit size that nothing normalizes",
  "unused parameters": "reach no output",
  "constant kernel": "held by the function itself, so not trained",
  "not followed, not looked at": "what the reader could not see, or measure",
  "input of zeros, constant input, repeated sample, one sample, input of rank "
  "one, unscaled input, ids beyond the vocabulary": "the input explains what "
  "is seen, and not the weights",
}
"""What each kind of verdict says, in a line; kinds that belong together."""
