"""What all tables share."""

from typing import Any


def new_table(title: str, *columns: str, left: int = 0, **options: Any) -> Any:
  """A `rich.table.Table` with these headings; the first `left` are of texts."""
  import rich.table

  table = rich.table.Table(title=title, **options)
  for index, heading in enumerate(columns):
    table.add_column(heading, justify="left" if index < left else "right")
  return table
