"""Reports in any encoding: ASCII replaces what the encoding does not have."""

import sys

_STAND_INS = {
  "✗": "x", "·": ".", "⋮": ":", "…": "...", "→": "->", "←": "<-", "↔": "<->",
  "±": "+-", "−": "-", "–": "-", "—": "-", "×": "x", "≥": ">=", "≤": "<=",
  "≈": "~", "≠": "!=", "∞": "inf", "√": "sqrt", "∂": "d", "Σ": "sum ",
  "∏": "prod ", "∫": "integral ", "‖": "|", "°": " degrees", "§": "section ",
  "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "½": "1/2",
  "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "eps",
  "ζ": "zeta", "η": "eta", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu",
  "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "χ": "chi",
  "ψ": "psi", "ω": "omega", "Φ": "Phi", "ᵀ": "^T", "⁻": "^-",
  **{digit: f"^{at}" for at, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
  **{digit: str(at) for at, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")},
}  # fmt: skip

CROPPED = "…"
"""Where a name was cropped to its place: one character in any encoding."""


def encoding_of_stdout() -> str:
  """What `print` writes; UTF-8 where nobody says."""
  return getattr(sys.stdout, "encoding", None) or "utf-8"


def printable(text: str, encoding: str) -> str:
  """`text` with a stand-in for each character that `encoding` lacks.

  >>> printable("σ_w² → 2", "ascii"), printable("é²", "latin-1")
  ('sigma_w^2 -> 2', 'é²')
  """
  try:
    text.encode(encoding)
  except UnicodeEncodeError:
    if len(text) > 1:
      return "".join(printable(character, encoding) for character in text)
    plain = text.encode("ascii", "backslashreplace").decode("ascii")
    return _STAND_INS.get(text, plain)
  except LookupError:  # an encoding that Python does not know
    return printable(text, "ascii")
  return text


def in_place(text: str, encoding: str) -> str:
  """Already laid out, cropped names included, without a change of length."""
  has_ellipsis = printable(CROPPED, encoding) == CROPPED
  return text if has_ellipsis else text.replace(CROPPED, "~")
