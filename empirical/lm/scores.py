"""Whether a predicted answer counts as right, against all accepted answers: five rules, the exact match our own.

An empty text among the accepted answers matches nothing.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_LEADING_ARTICLES = re.compile(r"\b(a|an|the)\s+(?=\S)")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_LEADING_POINT = re.compile(r"(?<![\w.])\.(?=\d)")
_THOUSANDS = re.compile(r"(?<![\w.,])(\d{1,3})((?:,\d{3})+)(?![\w,])")
_MARK = re.compile(r"[^\w\s]|_")
_SIGNS = "#%&@"
"""Punctuation by Unicode that reads as a word."""


def normalise(text: str) -> str:
    """Return the text as it is compared: in lower case, without punctuation and the articles before words.

    Kept is what tells answers apart: symbols (C++, C#, 5 %), a number's sign, point and whatever else stands between
    two digits (1.5, -5, 3/4; separators of thousands are dropped), and any text of which nothing would be left. Forms
    of one character, widths of digits and Latin letters, and dashes are told apart by none.
    """
    text = _DASHES.sub("-", unicodedata.normalize("NFC", text).translate(_FULL_WIDTH).casefold())
    text = _LEADING_POINT.sub("0.", text)
    text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    bare = " ".join(_MARK.sub(_kept, text).split())
    return _LEADING_ARTICLES.sub("", bare) or " ".join(text.split())


def _kept(found: re.Match[str]) -> str:
    """Return a mark if it says something where it stands, else nothing."""
    mark, before, after = found[0], found.string[: found.start()][-1:], found.string[found.end() :][:1]
    if mark in "-+" and after.isdecimal() and not before.isalnum():
        return mark.strip("+")
    if before.isdecimal() and after.isdecimal():
        return mark
    return "" if unicodedata.category(mark).startswith("P") and mark not in _SIGNS else mark


def squad_normalise(text: str) -> str:
    """Return the text in lower case without ASCII punctuation and articles, its words separated by single spaces.

    The official rules of SQuAD, in their order (Rajpurkar et al. 2016, evaluate-v1.1): "Spider-Man" is one word, other
    scripts' punctuation stays, and 1.5 is 15, -5 is 5, C++ is C.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Iterable[str]) -> bool:
    """Return whether the prediction equals an accepted answer, both normalised."""
    predicted = normalise(prediction)
    return any(predicted == normalise(answer) for answer in _filled(answers))


def strict_match(prediction: str, answers: Iterable[str]) -> bool:
    """Return whether the prediction is an accepted answer to the letter, whatever the form of its characters (NFC)."""
    predicted = unicodedata.normalize("NFC", prediction.strip())
    return any(predicted == unicodedata.normalize("NFC", answer.strip()) for answer in _filled(answers))


def squad_match(prediction: str, answers: Iterable[str]) -> bool:
    """Return SQuAD's exact match.

    As there, "The" and "!" both normalise to nothing and so match each other.
    """
    predicted = squad_normalise(prediction)
    return any(predicted == squad_normalise(answer) for answer in _filled(answers))


def substring_match(prediction: str, answers: Iterable[str]) -> bool:
    """Return whether an accepted answer stands in the prediction: as it is, in lower case, or capitalised.

    PopQA's own rule (Mallen et al. 2023): a long prediction is right if it names the answer anywhere, be it in a word.
    """
    return any(
        form in prediction for answer in _filled(answers) for form in (answer, answer.lower(), answer.capitalize())
    )


def token_f1(prediction: str, answers: Iterable[str]) -> float:
    """Return the best F1, from 0 to 1, between the words of the prediction and those of an accepted answer.

    SQuAD's second measure: words are counted with multiplicity, after its normalisation; two empty texts have 1.
    """
    predicted = squad_normalise(prediction).split()
    return max((_f1(predicted, squad_normalise(answer).split()) for answer in _filled(answers)), default=0.0)


def _f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    n_shared = (Counter(predicted) & Counter(expected)).total()
    return 2 * n_shared / (len(predicted) + len(expected))


def _filled(answers: Iterable[str]) -> list[str]:
    return [answer for answer in answers if answer.strip()]
