"""How the line that mends a model is written."""

import textwrap

_WIDTH = 72  # fits a terminal of 80 columns, indented


def cure(code: str = "", remark: str = "") -> str:
  """Code to paste, and what else may help as a comment below it.

  >>> print(cure("kernel_init=he_normal()", "or normalization"))
  kernel_init=he_normal()
  # or normalization
  """
  lines = [code] if code else []
  lines += textwrap.wrap(
    remark, _WIDTH, initial_indent="# ", subsequent_indent="# "
  )
  return "\n".join(lines)
