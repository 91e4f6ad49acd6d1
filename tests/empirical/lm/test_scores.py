import csv
import json
from pathlib import Path

import pytest

from empirical.lm import scores

POPQA = Path(__file__).resolve().parents[4] / "shared" / "data" / "popqa" / "popqa.tsv"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Beatles", "beatles"),
        ("Theatre of a Nation", "theatre of nation"),
        ("An anaconda in the Andes", "anaconda in andes"),
        ("  two \t words\n", "two words"),
        ("Spider-Man", "spiderman"),
        ("A.", ""),
        ("a-ha", "aha"),
        ("the, a; an!", ""),
        ("“Ōkami” – 2006", "“ōkami” – 2006"),
        ("the\u00a0end", "end"),
        ("ÉCOLE", "école"),
        ("", ""),
    ],
)
def test_normalisation_drops_case_ascii_punctuation_and_whole_word_articles(text, expected):
    assert scores.normalise(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "substring", "f1"),
    [
        ("The Politician", ("politician",), True, True, 1.0),
        ("politician.", ("actor", "Politician"), True, True, 1.0),
        ("He was a politician", ("politician",), False, True, 2 / 4),
        ("paris france", ("Paris, France", "Paris"), True, True, 1.0),
        ("Paris", ("Paris, France",), False, False, 2 / 3),
        ("the United States of america", ("united States",), False, False, 2 * 2 / (4 + 2)),
        ("new new york", ("New York",), False, True, 2 * 2 / (3 + 2)),
        ("new york york", ("york New York",), False, False, 1.0),
        ("", ("politician",), False, False, 0.0),
        ("", ("",), False, False, 0.0),
        ("politician", ("", "  "), False, False, 0.0),
        ("", ("The",), True, False, 1.0),
        ("politician", ("The",), False, False, 0.0),
        ("politician", (), False, False, 0.0),
        ("comedian", ("media",), False, True, 0.0),
    ],
)
def test_the_three_rules_on_a_table_of_cases(prediction, answers, exact, substring, f1):
    assert scores.exact_match(prediction, answers) is exact
    assert scores.substring_match(prediction, answers) is substring
    assert scores.token_f1(prediction, answers) == pytest.approx(f1)


@pytest.mark.parametrize("form", ["iPhone", "iphone", "Iphone"])
def test_the_substring_rule_knows_an_answer_as_it_is_in_lower_case_and_capitalised(form):
    assert scores.substring_match(f"An {form}!", ("iPhone",))
    assert not scores.substring_match("An IPHONE!", ("iPhone",))


@pytest.mark.skipif(not POPQA.exists(), reason="PopQA is not in ../shared/data")
def test_every_alias_of_popqa_matches_itself_under_all_three_rules():
    with POPQA.open(encoding="utf-8", newline="") as file:
        rows = [json.loads(row["possible_answers"]) for row in csv.DictReader(file, delimiter="\t")]
    aliases = {alias for row in rows for alias in row}
    assert len(rows) == 14_267
    assert len(aliases) > 10_000
    for alias in aliases:
        assert scores.exact_match(alias, [alias])
        assert scores.substring_match(alias, [alias])
        assert scores.token_f1(alias, [alias]) == 1.0
    assert not any(scores.exact_match("", row) for row in rows if all(map(scores.normalise, row)))
