"""Where an equation is in a program, and which loops surround it."""

from typing import NamedTuple

Site = tuple[int, ...]
"""Position of an equation: its index, and those of the calls around it.

Of an operand alone, another one after that, -1 for the first and so on down.
"""


BY_DEVICE = "cond of each device"
"""Branches of which each device of a shard_map takes its own."""


class Scan(NamedTuple):
  """A loop around an equation."""

  site: Site
  length: int
  reverse: bool


class Place(NamedTuple):
  """Where in a program an equation is."""

  site: Site = ()
  scans: tuple[Scan, ...] = ()
  """outermost first"""
  whole: frozenset[str] = frozenset()
  """names of calls around it that are run as a whole: a custom derivative rule,
  a while loop, a shard_map; or `BY_DEVICE`"""

  @property
  def repeats(self) -> tuple[int, ...]:
    """Lengths of the scans around it."""
    return tuple(scan.length for scan in self.scans)

  @property
  def closed(self) -> bool:
    """Whether it lies in a call that is run as a whole."""
    return bool(self.whole)

  def is_first(self, repeat: tuple[int, ...]) -> bool:
    """Whether a repeat is the first of the innermost scan."""
    if not self.scans:
      return True
    scan = self.scans[-1]
    return repeat[-1] == (scan.length - 1 if scan.reverse else 0)

  def inside(self, index: int) -> "Place":
    """One equation deeper."""
    return Place((*self.site, index), self.scans, self.whole)

  def run_whole(self, name: str) -> "Place":
    """Inside a call of this name that is run as a whole."""
    return self._replace(whole=self.whole | {name})
