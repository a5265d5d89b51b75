"""Tables as text: aligned columns for a terminal and a log, and Markdown."""

from collections.abc import Collection, Iterable, Sequence


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Columns with two spaces between them, under a header.

    Args:
        header: Title of each column.
        rows: Cells, as many in each row as there are titles.
        left: Columns of text, aligned on the left; the others are numbers, aligned on the right.
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def aligned(line: Sequence[str]) -> str:
        cells = zip(line, widths, strict=True)
        return "  ".join(cell.ljust(n) if index in left else cell.rjust(n) for index, (cell, n) in enumerate(cells))

    return "\n".join(aligned(line).rstrip() for line in lines)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. What would end a cell has to be escaped in the cells."""
    lines = ["|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])
