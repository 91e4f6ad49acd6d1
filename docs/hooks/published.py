"""The table of published numbers, made of the file that the language model's `compare` prints from."""

import csv
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[2] / "empirical" / "published.csv"
MARKER = "<!-- published -->"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the table where a page has the marker."""
    if MARKER not in markdown:
        return markdown
    with SOURCE.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return markdown.replace(MARKER, "\n".join(_line(cells) for cells in [header, ["---"] * len(header), *rows]))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
