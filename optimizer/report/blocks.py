"""What is a report made of, before it is Markdown or a page? Sections of text, tables and code, as values.

Text may hold **bold** and `code`, as in Markdown. A cell keeps the number that its text shows, and its trials.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.report.data import Link


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    value: float | None = None  # in SI base units: what a column is sorted by
    trials: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Code:
    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    items: tuple[str, ...]


Block = str | Table | Code | Bullets


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


def table_of(header: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> Table:
    cells = tuple(tuple(c if isinstance(c, Cell) else Cell(c) for c in row) for row in rows)
    return Table(tuple(header), cells)
