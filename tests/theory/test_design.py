import math
import warnings
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from theory import config as configs
from theory import design
from theory.config import Config
from theory.model.config import ModelConfig

BASE = Config()


def points(axis: str, base: Config = BASE) -> list:
    """Return the values of a grid of one axis."""
    made = design.grid(base, [axis])
    (name,) = made.axes
    assert len(made.configs) == len(made.values)
    return [row[name] for row in made.values]


def leaves(stored: dict, prefix: str = "") -> list[str]:
    nested = [leaves(v, f"{prefix}{k}.") if isinstance(v, dict) else [prefix + k] for k, v in stored.items()]
    return [name for names in nested for name in names]


def test_the_fields_are_the_leaves_of_the_stored_config_in_its_order():
    later = {
        "facts.source",
        "facts.part",
        "facts.buckets",
        "split.draw",
        "finetune.known_weight",
    }  # the stored config leaves them out at their default
    assert [name for name in design.fields(BASE) if name not in later] == leaves(configs.to_json(BASE))
    assert design.fields(BASE)["facts.background.share"] is float
    assert design.fields(BASE)["n_records"] is int
    assert design.fields(BASE)["facts.path"] == Path | None
    assert design.fields(BASE)["knownness.measure"] == Literal["popularity", "salience", "margin", "logprob"]


def test_every_field_is_of_a_type_that_an_axis_can_take():
    simple = {int, float, bool, str, Path, NoneType}
    for name, kind in design.fields(BASE).items():
        options = get_args(kind) if NoneType in get_args(kind) else (kind,)
        assert all(option in simple or get_origin(option) is Literal for option in options), name


def test_fields_are_replaced_at_any_depth_and_the_others_kept():
    changes = {"facts.background.share": 0.25, "facts.n_subjects": 7, "facts.background.size": 1.0, "n_records": 3}
    changed = design.replace(BASE, changes)
    assert (changed.facts.background.share, changed.facts.background.size) == (0.25, 1.0)
    assert (changed.facts.n_subjects, changed.n_records) == (7, 3)
    assert design.replace(changed, {name: value_at(BASE, name) for name in changes}) == BASE
    assert changed.pretrain is BASE.pretrain
    with pytest.raises(InputError, match=r"no field 'facts.colour'"):
        design.replace(BASE, {"facts.colour": 1})


def value_at(config, name: str):
    for part in name.split("."):
        config = getattr(config, part)
    return config


def test_every_field_can_be_given_its_own_value_as_text():
    for name, kind in design.fields(BASE).items():
        value = value_at(BASE, name)
        (found,) = points(f"{name}={value}")
        assert found == value and type(found) is type(value), (name, kind)


@pytest.mark.parametrize(("steps", "skews"), [([3], [0.5]), ([5, 2, 9], [1.5, 0.25]), ([1], [0.0, 2.0, 1.0])])
def test_a_grid_is_the_product_with_the_last_axis_fastest(steps, skews):
    made = design.grid(BASE, {"pretrain.steps": steps, "facts.answer_skew": skews})
    assert made.axes == ("pretrain.steps", "facts.answer_skew")
    wanted = [(one, other) for one in steps for other in skews]
    assert [tuple(row.values()) for row in made.values] == wanted
    assert [(one.pretrain.steps, one.facts.answer_skew) for one in made.configs] == wanted
    undone = [design.replace(one, {"pretrain.steps": 2000, "facts.answer_skew": 1.0}) for one in made.configs]
    assert undone == [BASE] * len(wanted)


def test_a_grid_of_no_axes_is_the_base_config():
    assert design.grid(BASE, []) == design.Design((), [BASE], [{}])


@given(st.floats(0, 1e3), st.floats(1e-3, 1e3), st.integers(2, 50))
def test_a_range_is_equally_spaced_with_both_ends(low, width, count):
    found = points(f"facts.answer_skew={low!r}:{low + width!r}:{count}")
    assert found[0] == low and found[-1] == low + width
    np.testing.assert_allclose(found, np.linspace(low, low + width, count), rtol=1e-11, atol=1e-13)


@given(st.floats(1e-6, 1e3), st.floats(1.5, 1e3), st.integers(2, 50))
def test_a_range_in_ratios_has_equal_ratios_and_both_ends(low, ratio, count):
    found = points(f"facts.answer_skew={low!r}:{low * ratio!r}:{count}:log")
    assert found[0] == low and found[-1] == low * ratio
    np.testing.assert_allclose(np.diff(np.log(found)), math.log(ratio) / (count - 1), rtol=1e-6)


def test_points_are_the_numbers_one_would_write_so_that_a_finer_grid_shares_them():
    assert points("facts.popularity_exponent=0.6:1.6:9") == [0.6, 0.725, 0.85, 0.975, 1.1, 1.225, 1.35, 1.475, 1.6]
    for count in range(2, 40):
        coarse = points(f"facts.popularity_exponent=0.1:1.7:{count}")
        assert coarse == points(f"facts.popularity_exponent=0.1:1.7:{3 * count - 2}")[::3]


def test_whole_numbers_are_rounded_and_stay_whole():
    assert points("pretrain.steps=500:16000:6:log") == [500, 1000, 2000, 4000, 8000, 16000]
    assert points("pretrain.steps=1:8:3") == [1, 4, 8]
    assert all(type(point) is int for point in points("model.dimension=10:20:3", DENSE))


DENSE = Config(model=ModelConfig(parametrisation="dense", embeddings="random"))


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("pretrain.steps=500, 1000,2000", [500, 1000, 2000]),
        ("pretrain.steps=500", [500]),
        ("pretrain.steps=500:500:1", [500]),
        ("pretrain.learning-rate=1e1,0.5", [10.0, 0.5]),
        ("model.dimension=None,30", [None, 30]),
        ("split.within_relation=true,False", [True, False]),
        ("knownness.measure=margin,popularity", ["margin", "popularity"]),
        ("facts.where=a=b:c", ["a=b:c"]),
        ("facts.path=hub:a/b,x.tsv", [Path("hub:a/b"), Path("x.tsv")]),
        ("facts.where=None", [None]),
    ],
)
def test_lists_hold_values_of_the_fields_type(axis, values):
    found = points(axis, DENSE)
    assert found == values and list(map(type, found)) == list(map(type, values))


def test_values_may_be_given_as_they_are():
    axes = {"pretrain.steps": np.array([5, 10]), "facts.answer_skew": [1, 0.5], "facts.path": [Path("a"), None]}
    made = design.grid(BASE, axes)
    assert len(made.configs) == 8
    assert [type(value) for value in made.values[0].values()][:2] == [int, float]
    assert design.grid(BASE, {"pretrain.steps": "500:1000:2"}) == design.grid(BASE, ["pretrain.steps=500,1000"])


AT_MOST = "between 1 and 1,000,000."
BAD = [
    ("facts.popularity_exponnt=1", "no field 'facts.popularity_exponnt'.\nDid you mean facts.popularity_exponent"),
    ("steps=1", "no field 'steps'.\nDid you mean pretrain.steps or finetune.steps?"),
    ("colour=1", "no field 'colour'.\n`python -m theory run paper --dry-run` shows them all."),
    ("facts.background=1", "no field 'facts.background'"),
    ("pretrain.steps", "'pretrain.steps' gives no values.\nWrite NAME=VALUES"),
    ("pretrain.steps=", "pretrain.steps has no values.\nWrite NAME=VALUES"),
    ("pretrain.steps=500,,600", "pretrain.steps cannot be ''.\nIt takes a whole number."),
    ("pretrain.steps=500,500", "pretrain.steps has the value 500 twice."),
    ("pretrain.steps=many", "pretrain.steps cannot be 'many'.\nIt takes a whole number."),
    ("facts.answer_skew=high", "facts.answer_skew cannot be 'high'.\nIt takes a number."),
    ("facts.answer_skew=0,inf", "facts.answer_skew cannot be 'inf'.\nIt takes a number."),
    ("facts.answer_skew=None", "facts.answer_skew cannot be 'None'.\nIt takes a number."),
    ("facts.facts_per_subject=all", "cannot be 'all'.\nIt takes a whole number or None."),
    ("split.within_relation=1", "split.within_relation cannot be '1'.\nIt takes true or false."),
    ("knownness.measure=fame", "cannot be 'fame'.\nIt takes popularity or salience or margin or logprob."),
    ("knownness.measure=a:b:3", "knownness.measure cannot be 'a:b:3'.\nIt takes popularity"),
    ("facts.answer_skew=0::3", "facts.answer_skew cannot be ''.\nIt takes a number."),
    ("facts.answer_skew=0:1:1.5", "'1.5'.\nIt takes a whole number."),
    ("facts.facts_per_subject=None:3:2", "cannot be 'None'.\nIt takes a whole number."),
    ("facts.answer_skew=0:1:3:4", "not a range.\nWrite LOW:HIGH:COUNT, LOW:HIGH:COUNT:log, or values with commas"),
    ("facts.answer_skew=0:1", "not a range."),
    ("facts.answer_skew=0:1:0", "0 points; their number must lie " + AT_MOST),
    ("facts.answer_skew=0:1:-2", "-2 points; their number must lie " + AT_MOST),
    ("facts.answer_skew=0:1:10000000000", "10000000000 points; their number must lie " + AT_MOST),
    ("facts.answer_skew=2:1:3", "LOW is above HIGH.\nWrite the lower end first."),
    ("facts.answer_skew=0:1:3:log", "equal ratios need LOW above 0.\nRaise it, or leave out :log."),
    ("facts.answer_skew=0:1:1", "one point cannot be both ends.\nAsk for 2 or more, or write facts.answer_skew=0.0."),
    ("facts.answer_skew=1:1:2", "some of the 2 points coincide.\nAsk for fewer, or list them."),
    ("pretrain.steps=1:5:6", "some of the 6 points coincide, rounded to whole numbers."),
    ("pretrain.steps=0.5:5:2", "pretrain.steps cannot be '0.5'.\nIt takes a whole number."),
]


@pytest.mark.parametrize(("axis", "message"), BAD)
def test_an_axis_that_cannot_be_is_refused_in_two_lines_with_what_it_takes(axis, message):
    with pytest.raises(InputError) as caught:
        design.grid(BASE, [axis])
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_value_of_the_wrong_kind_is_refused_rather_than_converted():
    for name, value in [("pretrain.steps", 1.5), ("facts.where", 3), ("facts.answer_skew", math.nan)]:
        with pytest.raises(InputError, match=f"{name} cannot be"):
            design.grid(BASE, {name: [value]})


def test_a_field_given_twice_is_refused_however_it_is_written():
    for axes in (["pretrain.batch_size=1", "pretrain.batch-size=2"], {"n_records": [1], "n-records": [2]}):
        with pytest.raises(InputError, match="is given twice.\nPut all of its values into one axis."):
            design.grid(BASE, axes)


def test_the_point_whose_config_means_nothing_is_named():
    with pytest.raises(InputError) as caught:
        design.grid(BASE, ["facts.answer_skew=0,1", "pretrain.steps=-100:100:3"])
    assert str(caught.value) == (
        "at facts.answer_skew=0.0, pretrain.steps=-100: --pretrain.steps is -100: it must be at least 1."
    )
    with pytest.raises(InputError, match="at the base config: --n-records is 0"):
        design.grid(Config(n_records=0), [])
    with pytest.raises(InputError, match="at model.shared_share=1.0"):
        design.sample(BASE, {"model.shared_share": [0.5, 1.0]}, method="random", n=30, seed=0)


def test_a_grid_of_too_many_configs_is_refused_before_it_is_made():
    with pytest.raises(InputError) as caught:
        design.grid(BASE, ["facts.answer_skew=0:1:1000", "pretrain.steps=1,2", "model.value_share=0:1:1000"])
    assert str(caught.value) == (
        "the grid has 2,000,000 configs (1,000 facts.answer_skew × 2 pretrain.steps × 1,000 model.value_share), "
        "more than 1,000,000.\nTake fewer points on some axis, or a random design in place of the grid."
    )


METHODS = ["random", "lhs", "sobol"]
AXES = ["facts.answer_skew=0.5:2", "pretrain.steps=1:4", "pretrain.learning_rate=0.1:10:log"]
AXES += ["knownness.measure=margin,salience"]


def draw(axes: list[str] = AXES, method: Any = "random", n: int = 256, seed: int = 0) -> dict[str, np.ndarray]:
    made = design.sample(BASE, axes, method=method, n=n, seed=seed)
    assert len(made.configs) == n
    assert [design.replace(BASE, row) for row in made.values] == made.configs
    return {name: np.array([row[name] for row in made.values]) for name in made.axes}


@pytest.mark.parametrize("method", METHODS)
def test_random_designs_cover_each_axis_evenly_in_its_own_scale(method):
    drawn = draw(method=method, n=1000)
    assert list(drawn) == [axis.partition("=")[0] for axis in AXES]
    uniform = [(drawn["facts.answer_skew"] - 0.5) / 1.5, np.log10(drawn["pretrain.learning_rate"]) / 2 + 0.5]
    for values in uniform:
        assert values.min() >= 0 and values.max() <= 1
        np.testing.assert_allclose(np.histogram(values, 4, (0, 1))[0], 250, atol=2 if method != "random" else 50)
    np.testing.assert_allclose(np.unique(drawn["pretrain.steps"], return_counts=True)[1], 250, atol=50)
    names, counts = np.unique(drawn["knownness.measure"], return_counts=True)
    assert list(names) == ["margin", "salience"] and abs(counts[0] - 500) < 60
    assert abs(np.corrcoef(uniform).min()) < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_random_designs_are_decided_by_their_seed(method):
    one, again, other = (draw(method=method, n=5, seed=seed) for seed in (0, 0, 1))
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
    assert not np.array_equal(one["facts.answer_skew"], other["facts.answer_skew"])


def test_a_latin_hypercube_has_one_point_in_each_part_of_every_axis():
    drawn = draw(method="lhs", n=37)
    share = (drawn["facts.answer_skew"] - 0.5) / 1.5
    assert sorted((share * 37).astype(int)) == list(range(37))


def test_a_sobol_sequence_of_any_length_begins_the_longer_one_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in (1, 2, 3, 5, 8, 9):
            short, long = draw(method="sobol", n=n), draw(method="sobol", n=16)
            np.testing.assert_array_equal(short["facts.answer_skew"], long["facts.answer_skew"][:n])
    assert sorted((draw(method="sobol", n=16)["facts.answer_skew"] - 0.5) / 1.5 * 16 // 1) == list(range(16))


@pytest.mark.parametrize("scale", ["", ":log"])
@pytest.mark.parametrize(("low", "high"), [(1, 2), (1, 50), (7, 23)])
def test_random_whole_numbers_reach_both_ends_and_follow_their_law(low, high, scale):
    steps = draw([f"pretrain.steps={low}:{high}{scale}"], "sobol", 1024)["pretrain.steps"]
    numbers = np.arange(low, high + 1)
    law = np.log1p(1 / numbers) / math.log((high + 1) / low) if scale else np.full(len(numbers), 1 / len(numbers))
    assert steps.dtype == int and set(steps) == set(numbers)
    np.testing.assert_allclose((steps == numbers[:, None]).mean(1), law, atol=2 / 1024)


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        (
            ["facts.answer_skew=0:1"],
            {"n": 0},
            "a random design of 0 configs: their number must lie between 1 and 1,000",
        ),
        (["facts.answer_skew=0:1"], {"seed": -1}, "the design's seed is -1: it must be at least 0."),
        ([], {}, "a random design without axes.\nName the fields to draw"),
        (["facts.answer_skew=0:1:9"], {}, "not a range.\nWrite LOW:HIGH, LOW:HIGH:log, or values with commas"),
        (["facts.answer_skew=1:1"], {}, "the range holds one value.\nWrite facts.answer_skew=1.0."),
        (["facts.answer_skew=0:1:log"], {}, "equal ratios need LOW above 0."),
        (["facts.answer_skw=0:1"], {}, "no field 'facts.answer_skw'.\nDid you mean facts.answer_skew"),
    ],
)
def test_a_random_design_that_cannot_be_is_refused(axes, options, message):
    with pytest.raises(InputError) as caught:
        design.sample(BASE, axes, **{"method": "lhs", "n": 4, "seed": 0} | options)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) <= 2
