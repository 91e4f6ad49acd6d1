"""What others measured, with its source, to be read beside a study of ours and never in a row with it."""

import csv
from importlib import resources

NOTE = "Other models, data and recipes than ours; secondary: quoted by another text, the table itself not seen."


def rows() -> list[dict[str, str]]:
    """Return the published numbers: study, dataset, model, arm, metric, value, unit, source, confidence."""
    text = resources.files("empirical").joinpath("published.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
