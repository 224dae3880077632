"""`python -m initjax` is the command `initjax`."""

import sys

from initjax._cli import main

if __name__ == "__main__":
  sys.exit(main())
