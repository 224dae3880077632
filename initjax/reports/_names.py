"""Names of rows: shortened while still distinct, and cropped to a width."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from initjax._paths import short_path


def short_paths(paths: Iterable[str]) -> dict[str, str]:
  """A name for each path, short where that tells it from all others.

  >>> short_paths(["params/Block_3/Dense_0/kernel"]).values()
  dict_values(['Block_3/Dense_0'])
  """
  paths = list(dict.fromkeys(paths))
  short = {path: short_path(path) for path in paths}
  shared = Counter(short.values())
  for path in paths:
    if shared[short[path]] > 1:  # a kernel beside a weight
      short[path] = path.removeprefix("params/")
  shared = Counter(short.values())
  return {
    path: path if shared[name] > 1 else name for path, name in short.items()
  }


def alike_names(names: Iterable[str]) -> list[str]:
  """Names that differ in numbers alone as one: the first, the last, how many.

  >>> alike_names(["b0", "b1", "b2", "head"])
  ['b0 … b2 (3)', 'head']
  """
  groups: dict[str, list[str]] = {}
  for name in names:
    groups.setdefault(re.sub(r"\d+", "#", name), []).append(name)
  return [
    f"{group[0]} … {group[-1]} ({len(group)})" if len(group) > 2 else name
    for group in groups.values()
    for name in (group if len(group) < 3 else group[:1])
  ]


def crops(names: Iterable[str], width: int) -> dict[str, str]:
  """Each name in `width` characters, no two alike.

  Where `crop` would make some alike, the keys in which they differ are kept.

  >>> list(crops(["net/layer/0/q", "net/layer/1/q"], 10).values())
  ['net/…/0/q', 'net/…/1/q']
  """
  names = list(dict.fromkeys(names))
  texts = {name: crop(name, width) for name in names}
  counts = Counter(texts.values())
  clashing: dict[str, list[str]] = {}
  for name, text in texts.items():
    if counts[text] > 1:
      clashing.setdefault(text, []).append(name)
  used = {text for text, count in counts.items() if count == 1}
  for group in clashing.values():
    for name, text in _apart(group, width).items():
      texts[name] = _unused(text, used, width)
      used.add(texts[name])
  return texts


def _apart(names: Sequence[str], width: int) -> dict[str, str]:
  """Of each name the keys in which it differs from others, and what fits."""
  split = [tuple(name.split("/")) for name in names]
  after: dict[tuple[str, ...], set[str]] = {}
  for keys in split:
    for place, key in enumerate(keys):
      after.setdefault(keys[:place], set()).add(key)
  found = {}
  for name, keys in zip(names, split, strict=True):
    needed = {i for i in range(len(keys)) if len(after[keys[:i]]) > 1}
    found[name] = _shown(keys, needed, width)
  return found


def _shown(keys: Sequence[str], needed: Collection[int], width: int) -> str:
  """The needed keys, cropped if need be, and as many more as there is room."""
  longest = max(map(len, keys))
  for most in range(longest, 1, -1):
    cropped = [_crop_key(key, most) for key in keys]
    shown = set(needed)
    if len(_with_gaps(cropped, shown)) > width:
      continue
    for place in (len(keys) - 1, 0, *range(len(keys) - 2, 0, -1)):
      if len(_with_gaps(cropped, {*shown, place})) <= width:
        shown.add(place)
    return _with_gaps(cropped, shown)
  return crop("/".join(keys), width)


def _with_gaps(keys: Sequence[str], shown: Collection[int]) -> str:
  """The keys that are shown, and "…" where some are left out."""
  parts: list[str] = []
  for place, key in enumerate(keys):
    if place in shown:
      parts.append(key)
    elif parts[-1:] != ["…"]:
      parts.append("…")
  return "/".join(parts)


def _crop_key(key: str, width: int) -> str:
  """Its beginning, and its number."""
  if len(key) <= width:
    return key
  head, tail = _split_number(key)
  kept = width - len(tail) - 1
  return f"{head[:kept]}…{tail}" if kept > 0 else f"{key[: width - 1]}…"


def _unused(text: str, used: Collection[str], width: int) -> str:
  """The text, or its beginning with a number that no other has."""
  number, found = 1, text
  while found in used:
    number += 1
    mark = f"…{number}"
    found = text[: max(0, width - len(mark))] + mark
  return found


def crop(name: str, width: int) -> str:
  """`name` in `width` characters: first and last key and numbers say most.

  >>> crop("Block_3/SelfAttention_0/query", 24)
  'Block_3/SelfAtt…_0/query'
  >>> crop("Block_3/SelfAttention_0/query", 16)
  'Block_3/…/query'
  """
  excess = len(name) - width
  if excess <= 0:
    return name
  first, *middle = name.split("/")
  last = middle.pop() if middle else ""
  if middle:
    longest = max(range(len(middle)), key=lambda place: len(middle[place]))
    head, tail = _split_number(middle[longest])
    kept = len(head) - excess - 1
    if kept > 1:
      middle[longest] = f"{head[:kept]}…{tail}"
      return "/".join((first, *middle, last))
    if len(f"{first}/…/{last}") <= width:
      return f"{first}/…/{last}"
  return "…" + name[excess + 1 :]


def _split_number(key: str) -> tuple[str, str]:
  """Block_12 as Block and _12."""
  head = key.rstrip("0123456789").rstrip("_")
  return head, key[len(head) :]
