import csv
import json
from pathlib import Path

import pytest

from empirical.lm import scores

POPQA = Path(__file__).resolve().parents[4] / "shared" / "data" / "popqa" / "popqa.tsv"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Beatles", "beatles."),
        ("Spider-Man", "spiderman"),
        ("U.S.A.", "usa"),
        ("St. Louis", "St Louis"),
        ("O’Brien", "O'Brien"),
        ("1,234,567.5", "1234567.5"),
        ("In 1,982.", "in 1982"),
        ("+5", "5"),
        (".5", "0.5"),
        ("−5", "-5"),
        ("1914–1918", "1914-1918"),
        ("５", "5"),
        ("Ａ", "a"),
        ("café", "cafe\u0301"),
        ("STRASSE", "straße"),
        ("1990's", "1990s"),
        ("The", "the"),
        ("a-ha", "the aha"),
    ],
)
def test_writings_of_one_answer_match(one, other):
    assert scores.normalise(one) == scores.normalise(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.5", "15"),
        ("-5", "5"),
        ("-.5", ".5"),
        ("3/4", "34"),
        ("1,5", "15"),
        ("12:30", "1230"),
        ("5%", "5"),
        ("$5", "5"),
        ("C", "C++"),
        ("C#", "C++"),
        ("C", "C#"),
        ("!", "?"),
        ("The", "A"),
        ("Vitamin A", "Vitamin"),
    ],
)
def test_answers_that_signs_points_and_symbols_tell_apart_do_not_match(one, other):
    assert scores.normalise(one) != scores.normalise(other)
    assert not scores.exact_match(one, (other,)) and not scores.strict_match(one, (other,))


@pytest.mark.parametrize("answer", ["Rome", "C++", "café", "!", "  -5 "])
def test_an_answer_matches_itself_to_the_letter_and_no_other_writing_of_it_does(answer):
    assert scores.strict_match(answer, ("x", answer)) and scores.exact_match(answer, (answer,))
    assert not scores.strict_match(f"The {answer}", (answer,)) and not scores.strict_match("", ("", answer))


def test_the_form_of_a_character_is_no_other_letter():
    assert scores.strict_match("cafe\u0301", ("café",))


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
def test_squads_normalisation_drops_case_ascii_punctuation_and_whole_word_articles(text, expected):
    assert scores.squad_normalise(text) == expected


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
        # Who names many answers is right by PopQA's rule alone.
        ("It may be Paris, or Rome, or Oslo.", ("Oslo",), False, True, 2 / 9),
    ],
)
def test_the_three_rules_on_a_table_of_cases(prediction, answers, exact, substring, f1):
    assert scores.squad_match(prediction, answers) is exact
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
        assert scores.exact_match(alias, [alias]) and scores.squad_match(alias, [alias])
        assert scores.substring_match(alias, [alias])
        assert scores.token_f1(alias, [alias]) == 1.0
    assert not any(scores.exact_match("", row) for row in rows)
