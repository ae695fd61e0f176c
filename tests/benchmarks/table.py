"""The table that `make bench` prints: each figure against its budget."""

from dataclasses import dataclass

HEAD = ("figure", "chatport", "other", "ratio", "budget", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        chatport: What was measured of chatport, or of the harder case.
        other: The same of the bare application, or of the easier case.
        ratio: Of the two; better made from pairs that were measured side by side.
        budget: What the figure, or the ratio if `of_ratio`, may be at most, or `at_least`.
            None where a figure is only told.
    """

    figure: str
    chatport: float
    other: float | None = None
    ratio: float | None = None
    budget: float | None = None
    of_ratio: bool = False
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """Return whether the budget is kept."""
        if self.budget is None:
            return True
        judged = self.ratio if self.of_ratio and self.ratio is not None else self.chatport
        return judged >= self.budget if self.at_least else judged <= self.budget

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the row."""
        sign, factor = ">=" if self.at_least else "<=", " x" if self.of_ratio else ""
        return (
            self.figure,
            _number(self.chatport),
            _number(self.other),
            "" if self.ratio is None else f"{self.ratio:.2f}",
            "" if self.budget is None else f"{sign} {self.budget:g}{factor}",
            "" if self.budget is None else "ok" if self.kept else "MISSED",
        )


def text(rows: list[Row]) -> str:
    """Return the table as text."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (lines[0], rule, *lines[1:])
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
