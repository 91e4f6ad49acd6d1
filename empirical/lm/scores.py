"""Whether a predicted answer counts as right, against all accepted answers: three rules, none of them ours.

An empty text among the accepted answers matches nothing.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Return the text in lower case without ASCII punctuation and articles, its words separated by single spaces.

    The official rules of SQuAD, in their order (Rajpurkar et al. 2016, evaluate-v1.1): "Spider-Man" is one word, and
    other scripts' punctuation stays.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Iterable[str]) -> bool:
    """Return whether the prediction equals an accepted answer, both normalised.

    As in SQuAD, "The" and "!" both normalise to nothing and so match each other.
    """
    predicted = normalise(prediction)
    return any(predicted == normalise(answer) for answer in _filled(answers))


def substring_match(prediction: str, answers: Iterable[str]) -> bool:
    """Return whether an accepted answer stands in the prediction: as it is, in lower case, or capitalised.

    PopQA's own rule (Mallen et al. 2023): a long prediction is right if it names the answer anywhere, be it in a word.
    """
    return any(
        form in prediction for answer in _filled(answers) for form in (answer, answer.lower(), answer.capitalize())
    )


def token_f1(prediction: str, answers: Iterable[str]) -> float:
    """Return the best F1, from 0 to 1, between the words of the prediction and those of an accepted answer.

    SQuAD's second measure: words are counted with multiplicity, after normalisation; two empty texts have 1.
    """
    predicted = normalise(prediction).split()
    return max((_f1(predicted, normalise(answer).split()) for answer in _filled(answers)), default=0.0)


def _f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    n_shared = (Counter(predicted) & Counter(expected)).total()
    return 2 * n_shared / (len(predicted) + len(expected))


def _filled(answers: Iterable[str]) -> list[str]:
    return [answer for answer in answers if answer.strip()]
