"""The words of reports, explained once: on pages and on the command line."""

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
