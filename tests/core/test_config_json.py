"""What config fields are marked with, and what follows from it."""

from dataclasses import dataclass, replace

import pytest

from core.config_json import config_hash, from_json, is_used, plain, remedies, setting, structure, to_json


@dataclass(frozen=True)
class Stage:
    rate: float = setting(2.0, traced=0.0)
    floor: float = setting(0.0, traced=is_used, is_remedy=True)
    order: str = setting("mixed", is_remedy=True)
    size: int = 3


@dataclass(frozen=True)
class Whole:
    stage: Stage = Stage()
    share: float | None = setting(None, traced=lambda share: None if share is None else 0.0)


def test_configs_that_differ_in_traced_numbers_alone_have_one_structure():
    other = Whole(Stage(rate=7.0, floor=0.5), share=0.3)
    assert structure(Whole(Stage(floor=0.1), share=0.9)) == structure(other)
    assert structure(Whole()) != structure(other)  # neither a floor nor a share is used
    assert structure(Whole()) != structure(Whole(Stage(size=4)))
    assert structure(structure(other)) == structure(other)


@pytest.mark.parametrize(("changes", "named"), [({}, []), ({"floor": 0.1}, ["floor"]), ({"rate": 9.0}, [])])
def test_remedies_are_the_marked_fields_that_are_not_at_their_default(changes, named):
    assert remedies(replace(Stage(), **changes)) == named


@dataclass(frozen=True)
class Before:
    size: int = 3


@dataclass(frozen=True)
class Now:
    size: int = 3
    kinds: tuple[str, ...] = setting((), is_later=True)


def test_a_later_field_is_stored_only_where_it_is_not_at_its_default():
    assert to_json(Now()) == plain(Now()) == to_json(Before())
    assert config_hash(Now()) == config_hash(Before())
    assert from_json(to_json(Before()), Now, "experiment") == Now()
    other = Now(kinds=("a",))
    assert plain(to_json(other)) == plain(other) == {"size": 3, "kinds": ["a"]}
    assert from_json(plain(other), Now, "experiment") == other


def test_every_remedy_of_the_toy_switches_its_forecast_off():
    from theory.config import Config
    from theory.law import forecast

    config = Config()
    assert forecast.applies(config)
    changes = {"kl_weight": 0.1, "attention_floor": 1.0, "replay": 0.1}
    changes |= {"early_stopping": True, "curriculum": "known_first"}
    for name, value in changes.items():
        changed = replace(config, finetune=replace(config.finetune, **{name: value}))
        assert remedies(changed.finetune) == [name] and not forecast.applies(changed)
