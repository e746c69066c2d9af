"""Tables of figures, for a terminal and for the docs."""

from collections.abc import Mapping

from bench.loads import Figures, Load


def rows(load: Load, medians: Mapping[str, Figures]) -> list[list[str]]:
    """Return the heading and a row for each gateway; a column that nobody has a figure for is left out."""
    columns = [column for column in load.columns if any(column.figure in row for row in medians.values())]
    heading = ["", *(column.title for column in columns)]
    return [heading] + [
        [name, *(f"{row[column.figure]:.{column.digits}f}" if column.figure in row else "" for column in columns)]
        for name, row in medians.items()
    ]


def print_table(load: Load, medians: Mapping[str, Figures]) -> None:
    """Print a load's table."""
    table = rows(load, medians)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(f"\n{load.title}")
    for line in table:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join(cells), flush=True)
