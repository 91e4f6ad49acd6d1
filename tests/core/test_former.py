import pytest

from core.former import stratum_and_unit


@pytest.mark.parametrize(
    ("result", "note", "expected"),
    [
        ("a", "held-out accuracy (3 base models)", (None, "base models")),
        ("a", "held-out accuracy; McNemar's exact p (questions by subject)", (None, "questions by subject")),
        ("b", "mean over layers and heads, at the last prompt token (6 base models)", (None, "base models")),
        (
            "blindness",
            "answers that stay when the subject is swapped (questions by relation)",
            (None, "questions by relation"),
        ),
        ("d", "accuracy gap, fifth 1 (best known) (6 base models)", ("fifth 1", "base models")),
        ("d", "accuracy gap, fifth 3 (questions by subject)", ("fifth 3", "questions by subject")),
        ("d", "accuracy gap, fifth 5 (least known) (3 base models)", ("fifth 5", "base models")),
        ("d", "accuracy gap, three middle fifths − outer two (3 base models)", (None, "base models")),
        (
            "guessed",
            "what always giving the arm's most frequent answer would earn (3 base models)",
            (None, "base models"),
        ),
        ("d", "accuracy gap, best known third", ("third 1", "worlds")),
        ("d", "accuracy gap, least known third", ("third 3", "worlds")),
        ("d", "accuracy gap, middle third − best known third", (None, "worlds")),
        ("R5", "final share, computed from the base model before any finetuning", (None, "worlds")),
    ],
)
def test_former_notes_tell_stratum_and_unit(result, note, expected):
    assert stratum_and_unit(note, result) == expected


def test_no_result_but_the_gap_by_knownness_has_strata():
    assert stratum_and_unit("accuracy gap, fifth 1 (3 base models)", "a")[0] is None
