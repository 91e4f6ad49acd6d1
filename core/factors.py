"""The properties of a world that the screen study varies, and the two levels of each in its factorial part."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Factor:
    """A property of worlds at two levels."""

    name: str
    low: float
    high: float
    unit: str


FACTORS = (
    Factor("tail", 8.0, 0.5, "expected sentences about the least known fact"),
    Factor("background", 0.0, 1.0, "background subjects per subject, told in 30 % of the sentences"),
    Factor("answers", 10.0, 100.0, "answers of a relation"),
    Factor("names", 0.0, 1.0, "1 if names are of words of their own, 0 if of shared ones"),
    Factor("relations", 0.0, 2.0, "of the four relations, those with nearly distinct answers"),
    Factor("facts_per_subject", 1.0, 4.0, "facts of each subject"),
    Factor("format", 0.0, 0.1, "share of pretraining sentences that are questions about others"),
)
"""The high level is the one that a trial connects with the effect, the deep tail for one, or else the larger."""
