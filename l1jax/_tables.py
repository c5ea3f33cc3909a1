"""Small tables: results print themselves as text, and in a notebook as HTML."""

from __future__ import annotations

import html
from typing import NamedTuple


class Table(NamedTuple):
    """A title, and rows of text under a header; what is empty is not shown."""

    title: str = ""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    left: tuple[int, ...] = ()  # the columns that are flush left; numbers are flush right

    def text(self) -> str:
        lines = [self.header, *self.rows] if any(self.header) else list(self.rows)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = [
            "  ".join(
                cell.ljust(width) if j in self.left else cell.rjust(width)
                for j, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *shown] if self.title else shown)

    def html(self) -> str:
        def row(cells: tuple[str, ...], tag: str) -> str:
            inside = "".join(
                f'<{tag} style="text-align: {"left" if j in self.left else "right"}">'
                f"{html.escape(cell)}</{tag}>"
                for j, cell in enumerate(cells)
            )
            return f"<tr>{inside}</tr>"

        head = f"<thead>{row(self.header, 'th')}</thead>" if any(self.header) else ""
        body = "".join(row(cells, "td") for cells in self.rows)
        caption = '<caption style="text-align: left; white-space: nowrap">'
        return f"<table>{caption}{html.escape(self.title)}</caption>{head}<tbody>{body}</tbody></table>"


class Summary(NamedTuple):
    """Several tables, one below the other."""

    tables: tuple[Table, ...]

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(table.html() for table in self.tables)


class Shown:
    """A result that is shown as the table that `_table` makes of it."""

    def _table(self) -> Table:
        raise NotImplementedError

    def __str__(self) -> str:
        return self._table().text()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._table().html()
