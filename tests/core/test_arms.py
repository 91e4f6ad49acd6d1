import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import arms, split
from core.arms import CLASSES, SIZES, Training
from core.errors import InputError
from core.split import SplitConfig


def made(seed, n_facts=300, n_groups=3, n_frequencies=6, **changes):
    """Return training facts at random: groups of several sizes, knownness and frequency with ties."""
    rng = np.random.default_rng(seed)
    parts = {
        "group": rng.integers(n_groups, size=n_facts) * 7 - 3,
        "knownness": rng.integers(40, size=n_facts).astype(float),
        "frequency": 2 ** rng.integers(n_frequencies, size=n_facts) + rng.integers(2, size=n_facts),
        "known_class": rng.integers(len(CLASSES), size=n_facts),
        "is_modal": rng.random(n_facts) < 0.2,
    }
    return Training(**parts | changes)


def drawn(names, training, seed=0):
    return arms.draw(tuple(names), training, np.random.default_rng(seed))


def counts(training, rows):
    """Return how many of these facts each group has."""
    return np.array([(training.group[rows] == group).sum() for group in np.unique(training.group)])


def sizes(training):
    return counts(training, np.arange(len(training.group)))


SEEDS, SOME_FACTS = st.integers(0, 10**6), st.integers(60, 400)


@settings(max_examples=40)
@given(seed=SEEDS, n_facts=SOME_FACTS, n_groups=st.integers(1, 4))
def test_common_and_rare_are_the_halves_of_every_group_by_frequency(seed, n_facts, n_groups):
    training = made(seed, n_facts, n_groups)
    common, rare = drawn(["common", "rare"], training, seed).values()
    assert training.frequency is not None and not set(common) & set(rare)
    for rows in (common, rare):
        np.testing.assert_array_equal(counts(training, rows), sizes(training) // 2)
    for group in np.unique(training.group):
        often, seldom = (training.frequency[rows[training.group[rows] == group]] for rows in (common, rare))
        assert not len(often) or often.min() >= seldom.max()


def test_equally_frequent_answers_are_halved_at_random_by_the_seed():
    training = made(0, 400, 1, frequency=np.full(400, 3))
    first, again, other = (drawn(["common"], training, seed)["common"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 60 < len(np.intersect1d(first, other)) < 140
    assert 60 < (first < 200).sum() < 140  # no order of the table shows in it


def test_a_generator_that_arms_were_drawn_from_gives_what_it_would_have_given():
    rng, untouched = (np.random.default_rng(5) for _ in range(2))
    arms.draw(("common", "size_10"), made(0), rng)
    np.testing.assert_array_equal(rng.random(9), untouched.random(9))


@settings(max_examples=40)
@given(seed=SEEDS, n_facts=SOME_FACTS, n_groups=st.integers(1, 4))
def test_matched_halves_have_equally_many_facts_of_each_group_and_bin_and_differ_in_knownness(seed, n_facts, n_groups):
    training = made(seed, n_facts, n_groups)
    top, bottom = drawn(["top_matched", "bottom_matched"], training, seed).values()
    assert training.frequency is not None and not set(top) & set(bottom)
    cell = list(zip(training.group.tolist(), np.floor(np.log2(training.frequency)).tolist(), strict=True))
    for one in set(cell):
        facts = np.flatnonzero([other == one for other in cell])
        above, below = (np.intersect1d(rows, facts) for rows in (top, bottom))
        assert len(above) == len(below) == len(facts) // 2
        assert not len(above) or training.knownness[above].min() >= training.knownness[below].max()
    assert training.knownness[top].mean() > training.knownness[bottom].mean()


def test_frequencies_of_one_power_of_two_are_a_bin_and_those_across_it_are_not():
    knownness = np.array([0.0, 1, 2, 3])
    one_bin = Training(np.zeros(4, dtype=int), knownness, np.array([4, 5, 6, 7]))
    top, bottom = drawn(["top_matched", "bottom_matched"], one_bin).values()
    assert (sorted(top), sorted(bottom)) == ([2, 3], [0, 1])
    two_bins = Training(np.zeros(4, dtype=int), knownness, np.array([3, 3, 4, 4]))
    top, bottom = drawn(["top_matched", "bottom_matched"], two_bins).values()
    assert (sorted(top), sorted(bottom)) == ([1, 3], [0, 2])


def test_matching_leaves_nothing_of_a_knownness_that_is_the_frequency_itself():
    """Halves by knownness are then halves by frequency; matched ones hold what they hold at random."""
    frequency = 2 ** np.random.default_rng(0).integers(6, size=600)
    training = Training(np.zeros(600, dtype=int), frequency.astype(float), frequency)
    top, bottom = drawn(["top_matched", "bottom_matched"], training).values()
    np.testing.assert_array_equal(np.sort(frequency[top]), np.sort(frequency[bottom]))
    common, rare = drawn(["common", "rare"], training).values()
    assert np.log2(frequency[common]).mean() > np.log2(frequency[rare]).mean() + 2


@settings(max_examples=40)
@given(seed=SEEDS, n_facts=SOME_FACTS, n_groups=st.integers(1, 4))
def test_the_crossed_arms_are_disjoint_equal_in_every_group_and_on_their_side_of_its_medians(seed, n_facts, n_groups):
    training = made(seed, n_facts, n_groups)
    cells = drawn(arms.FAMILIES["crossed"][0], training, seed)
    assert training.frequency is not None
    assert len(np.unique(np.concatenate(list(cells.values())))) == sum(map(len, cells.values()))
    assert len({tuple(counts(training, rows)) for rows in cells.values()}) == 1
    for name, rows in cells.items():
        known, common = name.startswith("known"), name.endswith("common")
        for group in np.unique(training.group):
            facts, own = np.flatnonzero(training.group == group), rows[training.group[rows] == group]
            for value, is_above in ((training.knownness, known), (training.frequency, common)):
                median = np.median(value[facts])
                assert (value[own] >= median if is_above else value[own] <= median).all()


def test_the_crossed_arms_are_as_large_as_the_smallest_cell_of_a_group_lets_them():
    # In the first group all four cells have two facts, in the second knownness goes with frequency but for one pair.
    group = np.repeat([0, 1], 8)
    knownness = np.array([7.0, 6, 5, 4, 3, 2, 1, 0] * 2)
    frequency = np.array([8, 7, 2, 1, 6, 5, 4, 3, 8, 7, 6, 1, 5, 4, 3, 2])
    frequency[4:8] = [7, 8, 1, 2]
    cells = drawn(arms.FAMILIES["crossed"][0], Training(group, knownness, frequency))
    expected = {"known_common": {0, 1}, "known_rare": {2, 3}, "unknown_common": {4, 5}, "unknown_rare": {6, 7}}
    assert {name: {row for row in rows.tolist() if row < 8} for name, rows in cells.items()} == expected
    second = {name: [row for row in rows.tolist() if row >= 8] for name, rows in cells.items()}
    assert all(len(rows) == 1 for rows in second.values())
    assert second["known_common"][0] in (8, 9, 10) and second["unknown_rare"][0] in (13, 14, 15)
    assert (second["known_rare"], second["unknown_common"]) == ([11], [12])


@settings(max_examples=40)
@given(seed=SEEDS, n_facts=SOME_FACTS, n_groups=st.integers(1, 4))
def test_the_classes_have_equally_many_facts_in_every_group_as_the_rarest_of_it(seed, n_facts, n_groups):
    training = made(seed, n_facts, n_groups)
    by_class = drawn(CLASSES, training, seed)
    assert training.known_class is not None
    there = [counts(training, np.flatnonzero(training.known_class == index)) for index in range(len(CLASSES))]
    for index, name in enumerate(CLASSES):
        assert (training.known_class[by_class[name]] == index).all()
        np.testing.assert_array_equal(counts(training, by_class[name]), np.min(there, axis=0))
        assert len(np.unique(by_class[name])) == len(by_class[name])


@settings(max_examples=40)
@given(seed=SEEDS, n_facts=SOME_FACTS, n_groups=st.integers(1, 4))
def test_the_sizes_are_nested_and_have_their_share_of_every_group(seed, n_facts, n_groups):
    training = made(seed, n_facts, n_groups)
    by_size = drawn(SIZES, training, seed)
    for name, share in SIZES.items():
        np.testing.assert_array_equal(counts(training, by_size[name]), np.rint(share * sizes(training)))
    assert set(by_size["size_5"]) <= set(by_size["size_10"]) <= set(by_size["size_25"])


def test_each_fact_is_as_often_in_a_size_whatever_its_knownness():
    often = np.zeros(40)
    for seed in range(300):
        often[drawn(["size_25"], made(0, 40, 1), seed)["size_25"]] += 1
    assert np.abs(often / 300 - 0.25).max() < 0.12


@settings(max_examples=20)
@given(seed=SEEDS, n_facts=SOME_FACTS, share=st.sampled_from([0.0, 0.3, 0.9]))
def test_facts_without_the_most_frequent_answer_come_first_and_of_them_the_best_known(seed, n_facts, share):
    training = made(seed, n_facts, 1, is_modal=np.random.default_rng(seed).random(n_facts) < share)
    rows = drawn(["not_modal"], training, seed)["not_modal"]
    assert len(rows) == n_facts // 2
    is_left, is_modal = np.ones(n_facts, bool), np.asarray(training.is_modal)
    is_left[rows] = False
    if is_modal[rows].any():  # only where the others do not suffice
        assert is_modal[is_left].all()
        assert training.knownness[rows[is_modal[rows]]].min() >= training.knownness[is_left].max()
    else:
        others = training.knownness[is_left & ~is_modal]
        assert not len(others) or training.knownness[rows].min() >= others.max()


def test_no_answer_is_the_most_frequent_where_all_are_equally_frequent():
    relation, frequency = np.array([0, 0, 0, 1, 1, 2]), np.array([2, 2, 1, 1, 1, 1])
    assert split.is_modal(relation, frequency).tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("name", arms.NAMES)
def test_asking_for_one_family_moves_no_other(name):
    training = made(3)
    everything, alone = drawn(arms.NAMES, training), drawn([name], training)
    assert list(alone) == [name] and list(everything) == list(arms.NAMES)
    np.testing.assert_array_equal(alone[name], everything[name])


def test_arms_come_in_the_order_in_which_they_are_asked_for():
    assert list(drawn(["size_5", "rare", "unknown", "common"], made(0))) == ["size_5", "rare", "unknown", "common"]


@pytest.mark.parametrize("within_relation", [False, True])
@pytest.mark.parametrize("known_share", [None, 0.7])
def test_the_standard_arms_are_the_same_whatever_more_is_asked_for(within_relation, known_share):
    rng = np.random.default_rng(0)
    relation, answer, known_class = (rng.integers(n, size=400) for n in (3, 12, 4))
    config = SplitConfig(held_out=0.3, dev=0.1, within_relation=within_relation, known_share=known_share, size=0.3)
    knownness, roles = rng.integers(30, size=400).astype(float), split.roles(np.arange(400), relation, config, seed=2)
    plain = split.arms(roles, relation, knownness, config)
    options = {"answer": answer, "known_class": known_class}
    for more in (arms.NAMES, ("common", "rare"), ("size_5",)):
        chosen = split.arms(roles, relation, knownness, config, more=more, **options)
        assert tuple(chosen.arms) == (*config.names, *more)
        for name in config.names:
            np.testing.assert_array_equal(chosen.arms[name], plain.arms[name])
        for name in more:
            assert (np.diff(chosen.arms[name]) > 0).all() and np.isin(chosen.arms[name], plain.arms["whole"]).all()


def test_an_answer_is_as_frequent_as_among_the_training_facts_of_its_relation():
    # Ten facts of one answer, and five answers of two facts: in each relation the other's frequent one is among these.
    relation = np.repeat([0, 1], 20)
    pairs = np.repeat(np.arange(2, 6), 2)
    answer = np.concatenate([[0] * 10, [1, 1], pairs, [1] * 10, [0, 0], pairs])
    config = SplitConfig(held_out=0.0, within_relation=True)
    roles = split.roles(np.arange(40), relation, config, seed=0)
    options = {"more": ("common", "rare"), "answer": answer}
    chosen = split.arms(roles, relation, np.zeros(40), config, **options).arms
    assert chosen["common"].tolist() == [*range(10), *range(20, 30)]
    assert chosen["rare"].tolist() == [*range(10, 20), *range(30, 40)]
    role = roles.role.copy()
    role[1:10] = split.HELD_OUT
    chosen = split.arms(split.Roles(role, roles.rng), relation, np.zeros(40), config, **options).arms
    assert 0 in chosen["rare"].tolist() and not set(range(10)) & set(chosen["common"].tolist())


@settings(max_examples=30)
@given(seed=SEEDS, n_facts=st.integers(1, 60), n_groups=st.integers(1, 5))
def test_ranks_count_each_group_from_its_highest_value(seed, n_facts, n_groups):
    training = made(seed, n_facts, n_groups)
    place, size = arms.ranks(training.group, training.knownness, np.random.default_rng(seed))
    for group in np.unique(training.group):
        rows = np.flatnonzero(training.group == group)
        assert (size[rows] == len(rows)).all() and sorted(place[rows]) == list(range(len(rows)))
        assert (np.diff(training.knownness[rows[np.argsort(place[rows])]]) <= 0).all()


ALIKE = {"group": np.zeros(40, dtype=int), "knownness": np.arange(40.0), "frequency": np.arange(40, 0, -1)}


@pytest.mark.parametrize(
    ("names", "training", "told"),
    [
        (("common", "middle"), made(0), "--arms: there is no arm middle; there are common, rare, top_matched"),
        (("maybe_known",), made(0, known_class=None), "need the classes.\nAdd --knownness.classes"),
        (("rare",), made(0, frequency=None), "need the answers"),
        (("top_matched",), made(0, frequency=None), "need the answers"),
        (("known_rare",), made(0, frequency=None), "need the answers"),
        (
            ("size_5",),
            made(0, 4, 1),
            "the arm size_5 would be empty: 4 training facts are too few, or too alike.\nGive",
        ),
        (("unknown",), made(0, known_class=np.zeros(300, dtype=int)), "the arm unknown would be empty"),
        (("bottom_matched",), Training(**ALIKE | {"frequency": 2 ** np.arange(40)}), "bottom_matched would be empty"),
        (("known_common",), Training(**ALIKE), "known_common would be empty: 40 training facts"),
    ],
)
def test_an_arm_that_cannot_be_drawn_is_an_input_error(names, training, told):
    with pytest.raises(InputError) as refused:
        drawn(names, training)
    assert told in str(refused.value) and len(str(refused.value).splitlines()) <= 2
