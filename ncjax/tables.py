"""Tables as text, CSV, Markdown or LaTeX."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

TableFormat = Literal["text", "csv", "markdown", "latex"]

COMMENTS = {"csv": "# ", "latex": "% "}
"""What a line begins with that is no row, in the formats that a program reads."""
_LATEX = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "×": r"$\times$", "μ": r"$\mu$",
    "↓": r"$\downarrow$", "↑": r"$\uparrow$", "∞": r"$\infty$", "–": "--",
    "−": "$-$", "α": r"$\alpha$", "ρ": r"$\rho$", "τ": r"$\tau$", "…": r"\ldots{}",
    "≤": r"$\leq$", "≥": r"$\geq$", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of text, with the words that belong to it.

    Attributes:
        header: A name for each column.
        rows: Cells, as many in each row as there are names.
        title: What the table is about.
        notes: Sentences below it.
        left: How many columns, counted from the first, hold names.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()
    left: int = 1

    def format(self, style: TableFormat = "text") -> str:
        """Formats the table as `format_table` does; title and notes are comments in CSV (#) and LaTeX (%)."""
        body = format_table(self.header, self.rows, style, left=self.left) if self.rows or style != "text" else ""
        mark = COMMENTS.get(style, "")
        gap = "\n" if style == "markdown" else ""
        title = [f"{mark}{self.title}\n{gap}"] if self.title else []
        notes = [f"{gap}{mark}{note}\n" for note in self.notes]
        return "".join([*title, body, *notes])


def show(tables: Sequence[Table], style: TableFormat = "text") -> None:
    """Prints tables with an empty line between them."""
    print("\n".join(table.format(style) for table in tables), end="")


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], style: TableFormat = "text", *, left: int = 1
) -> str:
    """Formats a table.

    Args:
        header: A name for each column.
        rows: Cells as text, as many in each row as there are names.
        style: "text" pads columns with spaces; "csv" follows RFC 4180; "markdown" is a pipe table; "latex" is a
            tabular with booktabs rules, special characters escaped.
        left: How many columns, counted from the first, text and LaTeX align to the left; the others to the right.

    Returns:
        The lines of the table, the last one ended too.
    """
    if style == "csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([header, *rows])
        return out.getvalue()
    if style == "markdown":
        lines = [_pipes(header), "|---" * len(header) + "|", *map(_pipes, rows)]
    elif style == "latex":
        columns = "l" * left + "r" * (len(header) - left)
        body = [" & ".join(map(_escaped, row)) + r" \\" for row in (header, *rows)]
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule", *body[1:]]
        lines += [r"\bottomrule", r"\end{tabular}"]
    else:
        lines = aligned([header, *rows], left=left)
    return "\n".join(lines) + "\n"


def _pipes(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in row) + " |"


def _escaped(cell: str) -> str:
    return "".join(_LATEX.get(character, character) for character in cell.replace("\n", " "))


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Pads the cells of a table so that its columns line up.

    Args:
      rows: cells as text, the same number in each row.
      left: how many columns, counted from the first, are aligned to the left; the others are aligned to the right.

    Returns:
      A line for each row.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [
        [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return ["  ".join(row).rstrip() for row in padded]
