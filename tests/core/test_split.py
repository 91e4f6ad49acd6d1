import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from core import split
from core.errors import InputError
from core.numbering import numbered
from core.split import DEV, HELD_OUT, TRAIN, SplitConfig


def grid(n_subjects, n_relations):
    """Every subject's facts in every relation, and a knownness with ties."""
    subject = np.repeat(np.arange(n_subjects), n_relations)
    return subject, np.tile(np.arange(n_relations), n_subjects), 1.0 / (1 + subject // 3)


@settings(max_examples=40)
@given(
    n_facts=st.integers(40, 120),
    n_subjects=st.integers(20, 80),
    n_questions=st.integers(100, 400),
    within_relation=st.booleans(),
    draw=st.sampled_from(["shuffled", "hashed"]),
    seed=st.integers(0, 1000),
)
def test_sets_share_no_subject_or_question_and_halves_are_equal_and_ranked(
    n_facts, n_subjects, n_questions, within_relation, draw, seed
):
    rng = np.random.default_rng(seed)
    subject, question = rng.integers(n_subjects, size=n_facts), rng.integers(n_questions, size=n_facts)
    relation, knownness = rng.integers(3, size=n_facts), rng.integers(5, size=n_facts).astype(float)
    is_background = rng.random(n_facts) < 0.1
    config = SplitConfig(held_out=0.3, dev=0.2, within_relation=within_relation, draw=draw)
    try:
        chosen = split.select(
            subject, relation, knownness, config, question=question, is_background=is_background, seed=seed
        )
    except InputError:
        reject()  # one component holds nearly everything; hypothesis fails the test if that is common
    np.testing.assert_array_equal(chosen.role == split.BACKGROUND, is_background)
    sets = [np.flatnonzero(chosen.role == code) for code in (TRAIN, DEV, HELD_OUT)]
    for ids in (subject, question):
        groups = [set(ids[facts]) for facts in sets]
        assert len(set.union(*groups)) == sum(map(len, groups))
    assert tuple(chosen.arms) == split.ARMS
    top, bottom, whole, random = chosen.arms.values()
    np.testing.assert_array_equal(whole, sets[0])
    assert all((np.diff(arm) > 0).all() and np.isin(arm, whole).all() for arm in (top, bottom, random))
    assert not set(top) & set(bottom)
    for facts in [relation == r for r in range(3)] if within_relation else [np.ones(n_facts, dtype=bool)]:
        sizes = {int(facts[arm].sum()) for arm in (top, bottom, random)}
        assert sizes == {int(facts[whole].sum()) // 2}
        if sizes != {0}:
            assert knownness[top[facts[top]]].min() >= knownness[bottom[facts[bottom]]].max()


@pytest.mark.parametrize("within_relation", [False, True])
def test_counts_do_not_depend_on_the_seed_where_subjects_have_equally_many_facts(within_relation):
    config = SplitConfig(held_out=0.5, dev=0.1, within_relation=within_relation)
    splits = [split.select(*grid(101, 3), config, seed=seed) for seed in range(5)]
    # 151.5 and 30.3 of 303 facts, in threes: 150 (as near as 153) and 30.
    assert {tuple(np.bincount(s.role)) for s in splits} == {(123, 30, 150)}
    assert {tuple(map(len, s.arms.values())) for s in splits} == {
        (61, 61, 123, 61) if not within_relation else (60, 60, 123, 60)
    }
    assert len({tuple(s.arms["whole"]) for s in splits}) == 5


def test_the_odd_fact_left_out_is_the_middle_one():
    subject = np.arange(10)
    chosen = split.select(subject, subject * 0, -subject, SplitConfig(held_out=0.1), seed=0)
    train = chosen.arms["whole"]
    assert len(train) == 9
    np.testing.assert_array_equal(chosen.arms["top"], train[:4])
    np.testing.assert_array_equal(chosen.arms["bottom"], train[5:])


def test_facts_chained_by_subject_and_question_stay_together():
    # Facts 0-1 share a subject, 1-2 a question, 2-3 a subject; the others stand alone.
    subject = np.array([0, 0, 1, 1, 2, 3, 4, 5, 6, 7])
    question = np.array([10, 11, 11, 12, 13, 14, 15, 16, 17, 18])
    for seed in range(20):
        chosen = split.select(subject, subject * 0, np.arange(10), SplitConfig(), question=question, seed=seed)
        assert len(set(chosen.role[:4])) == 1


def test_ties_and_the_random_half_are_drawn_by_the_seed():
    subject, relation, _ = grid(400, 1)
    first, again, other = (
        split.select(subject, relation, np.ones(400), SplitConfig(held_out=0.0), seed=seed) for seed in (0, 0, 1)
    )
    for arm in ("top", "bottom", "random"):
        np.testing.assert_array_equal(first.arms[arm], again.arms[arm])
        assert 60 < len(np.intersect1d(first.arms[arm], other.arms[arm])) < 140
    # Among equals, top is a random half too: no order of the table shows in it.
    assert 60 < (first.arms["top"] < 200).sum() < 140
    assert 60 < len(np.intersect1d(first.arms["top"], first.arms["random"])) < 140


def test_each_fact_is_held_out_equally_often():
    subject, relation, knownness = grid(20, 2)
    drawn = [split.select(subject, relation, knownness, SplitConfig(), seed=s).role == HELD_OUT for s in range(200)]
    assert abs(np.mean(drawn, axis=0) - 0.5).max() < 0.17


def test_within_relation_every_arm_has_the_same_mix_and_plain_halves_need_not():
    subject, relation, _ = grid(200, 4)
    knownness = relation + np.random.default_rng(0).random(len(subject))
    plain = split.select(subject, relation, knownness, SplitConfig(), seed=0)
    matched = split.select(subject, relation, knownness, SplitConfig(within_relation=True), seed=0)
    assert set(relation[plain.arms["top"]]) == {2, 3}
    for arm in ("top", "bottom", "random"):
        np.testing.assert_array_equal(np.bincount(relation[matched.arms[arm]]), [50] * 4)


@pytest.mark.parametrize("key", ["subject", "question"])
def test_a_leak_is_named(key):
    role = np.array([TRAIN, HELD_OUT, DEV, split.BACKGROUND], dtype=np.int8)
    ids = {"subject": np.arange(4), "question": np.arange(4)}
    split.check_leaks(role, **ids)
    ids[key] = np.array([7, 7, 2, 2])  # the background may share with any set
    with pytest.raises(InputError, match=f"1 {key}s are in more than one set; {key} 7 is in train and held_out"):
        split.check_leaks(role, **ids)


def test_every_split_is_checked_for_leaks(monkeypatch):
    monkeypatch.setattr(split.components, "find", lambda subject, question: np.arange(len(subject)))
    with pytest.raises(InputError, match="subjects are in more than one set"):
        split.select(*grid(10, 4), SplitConfig(), seed=0)


@pytest.mark.parametrize(
    ("config", "n_subjects", "message"),
    [
        (SplitConfig(held_out=1.0), 10, "--split.held-out is 1.0: it must be at least 0 and below 1"),
        (SplitConfig(dev=-0.1), 10, "--split.dev is -0.1"),
        (SplitConfig(dev=float("nan")), 10, "--split.dev is nan"),
        (SplitConfig(held_out=0.6, dev=0.4), 10, "their sum must be below 1"),
        (SplitConfig(held_out=0.01), 10, "--split.held-out 0.01 of 20 facts in 10 groups.*\nRaise it"),
        (SplitConfig(dev=0.01), 10, "--split.dev 0.01 of 20 facts"),
        (SplitConfig(held_out=0.99), 10, "20 facts leave 0 to train on"),
        (SplitConfig(), 0, "0 facts"),
    ],
)
def test_a_share_that_leaves_a_set_empty_is_an_input_error(config, n_subjects, message):
    with pytest.raises(InputError, match=message):
        split.select(*grid(n_subjects, 2), config, seed=0)


def test_fewer_facts_than_an_arm_needs_is_an_input_error_with_a_remedy():
    with pytest.raises(InputError, match="2 facts leave 1 to train on, and an arm needs two.\nLower --split.held-out"):
        split.select(*grid(2, 1), SplitConfig(), seed=0)
    with pytest.raises(InputError, match="20 facts leave 2 to train on, and an arm needs two of one relation"):
        split.select(*grid(10, 2), SplitConfig(held_out=0.9, within_relation=True), seed=0)


def test_a_knownness_that_is_not_a_number_is_an_input_error_only_where_it_ranks():
    subject, relation, knownness = grid(10, 2)
    knownness[0] = np.nan
    with pytest.raises(InputError, match="knownness of 1 of 20 training facts is not a number"):
        split.select(subject, relation, knownness, SplitConfig(held_out=0.0), seed=0)
    mask = subject == 0
    split.select(subject, relation, knownness, SplitConfig(), is_background=mask, seed=0)


@settings(max_examples=30)
@given(
    known_share=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]),
    size=st.sampled_from([0.1, 0.3, 0.5]),
    within_relation=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_mixture_has_its_size_and_its_share_of_each_half_and_leaves_the_other_arms_alone(
    known_share, size, within_relation, seed
):
    subject, relation, _ = grid(201, 3)
    knownness = np.random.default_rng(seed).random(len(subject))
    config = SplitConfig(within_relation=within_relation)
    mixed = SplitConfig(within_relation=within_relation, known_share=known_share, size=size)
    plain, chosen = (split.select(subject, relation, knownness, c, seed=seed) for c in (config, mixed))
    assert tuple(chosen.arms) == (*split.ARMS, split.MIXTURE)
    for arm in split.ARMS:
        np.testing.assert_array_equal(chosen.arms[arm], plain.arms[arm])
    mixture, n_train = chosen.arms[split.MIXTURE], len(chosen.arms["whole"])
    assert (np.diff(mixture) > 0).all() and np.isin(mixture, chosen.arms["whole"]).all()
    for facts in [relation == r for r in range(3)] if within_relation else [np.ones(len(subject), dtype=bool)]:
        n_facts = int(facts[chosen.arms["whole"]].sum())
        for half, share in (("top", known_share), ("bottom", 1 - known_share)):
            expected = share * size * n_facts
            assert abs(int(facts[np.intersect1d(mixture, chosen.arms[half])].sum()) - expected) <= 0.5
    assert abs(len(mixture) - size * n_train) <= 3


def test_a_mixture_of_one_half_alone_at_full_size_is_that_half_and_smaller_ones_are_drawn_by_the_seed():
    subject, relation, knownness = grid(40, 2)
    for share, half in ((1.0, "top"), (0.0, "bottom")):
        whole = split.select(subject, relation, knownness, SplitConfig(known_share=share), seed=1)
        np.testing.assert_array_equal(whole.arms[split.MIXTURE], whole.arms[half])
    config = SplitConfig(held_out=0.2, known_share=0.5, size=0.25)
    drawn = [split.select(subject, subject * 0, knownness, config, seed=seed) for seed in range(200)]
    often = np.zeros(len(subject))
    for one in drawn:
        often[one.arms[split.MIXTURE]] += 1
    assert np.abs(often / 200 - 0.2).max() < 0.15  # a quarter of the four fifths that are trained on


@pytest.mark.parametrize(
    ("share", "size", "named"),
    [
        (1.1, 0.5, "share 1.1 of --split.size 0.5"),
        (-0.1, 0.5, "share -0.1"),
        (0.8, 0.7, "each half has only 0.5 of them.\nChoose a share between 0 and 1"),
        (0.5, 0.0, "--split.size 0.0"),
        (0.5, float("nan"), "--split.size nan"),
        (0.5, 0.001, "--split.size 0.001 of 40 training facts is none.\nRaise it."),
    ],
)
def test_a_mixture_that_the_halves_cannot_give_is_an_input_error(share, size, named):
    with pytest.raises(InputError) as refused:
        split.select(*grid(40, 2), SplitConfig(known_share=share, size=size), seed=0)
    assert named in str(refused.value)


@pytest.mark.parametrize("share", [None, 0.7])
def test_roles_then_arms_are_the_split_that_select_draws_however_often_arms_are_drawn(share):
    subject, relation, knownness = grid(40, 3)
    config = SplitConfig(held_out=0.3, dev=0.2, known_share=share)
    whole = split.select(subject, relation, knownness, config, seed=3)
    drawn = split.roles(subject, relation, config, seed=3)
    split.arms(drawn, relation, -knownness, config)  # another ranking changes neither roles nor the random stream
    again = split.arms(drawn, relation, knownness, config)
    np.testing.assert_array_equal(again.role, whole.role)
    assert again.arms.keys() == whole.arms.keys()
    for arm, rows in whole.arms.items():
        np.testing.assert_array_equal(again.arms[arm], rows)


@pytest.mark.parametrize(
    ("knownness", "within_relation", "expected"),
    [
        ([5, 4, 3, 2, 1, 0], False, set()),
        ([5, 3, 3, 3, 1, 0], False, {1, 2, 3}),
        ([1, 1, 1, 1, 1, 1], False, {0, 1, 2, 3, 4, 5}),
        ([5, 3, 2, 3, 2, 0], True, {1, 3}),  # facts 2 and 4 are equals, but of two relations
    ],
)
def test_facts_are_tied_if_equals_of_theirs_are_in_the_other_half(knownness, within_relation, expected):
    halves = split.Split(np.full(6, TRAIN, dtype=np.int8), {"top": np.arange(3), "bottom": np.arange(3, 6)})
    config = SplitConfig(within_relation=within_relation)
    rows = split.tied(halves, np.array([0, 1, 0, 1, 1, 0]), np.array(knownness, dtype=float), config)
    assert set(rows.tolist()) == expected


def hashed(names, question, *, seed=0, held_out=0.4, dev=0.2):
    """Return the roles by row of subjects of these names, drawn by hash."""
    config = SplitConfig(held_out=held_out, dev=dev, draw="hashed")
    columns = numbered(names), np.zeros(len(names), dtype=int)
    return split.roles(*columns, config, question=np.array(question), keys=names, seed=seed).role


def test_rows_that_are_added_or_deleted_move_no_others_where_roles_are_hashed():
    names = [f"subject {i // 2}" for i in range(600)]
    question = np.arange(600)
    before = hashed(names, question)
    kept = np.sort(np.random.default_rng(0).permutation(600)[:300])
    assert (hashed([names[row] for row in kept], question[kept]) == before[kept]).all()
    more = hashed(["a new one", *names, "subject 7"], [1000, *question, 1001])
    assert (more[1:601] == before).all() and more[-1] == before[14]
    # A row that joins two components moves these, and no others.
    joined = hashed([*names, "subject 299"], [*question, 0])
    moved = np.flatnonzero(joined[:600] != before)
    assert set(moved.tolist()) <= {0, 1, 598, 599} and len({*joined[[0, 1, 598, 599]]}) == 1
    assert (hashed(names, question, seed=1) != before).any()


def test_hashed_roles_have_their_shares_to_sampling_tolerance_and_an_empty_one_is_refused():
    names = [f"subject {i}" for i in range(4000)]
    counts = np.bincount(hashed(names, np.arange(4000)), minlength=4)
    wanted = np.array([0.4, 0.2, 0.4]) * 4000
    assert (np.abs(counts[:3] - wanted) < 4 * np.sqrt(wanted * (1 - wanted / 4000))).all()
    with pytest.raises(InputError, match="--split.dev 0.001 of 20 facts in 20 groups .* is none, drawn by hash"):
        hashed(names[:20], np.arange(20), dev=0.001)


def test_roles_of_subjects_without_names_are_hashed_by_their_ids():
    ids, config = np.arange(300), SplitConfig(held_out=0.5, draw="hashed")
    role = split.roles(ids, ids * 0, config, seed=0).role
    assert (split.roles(ids[100:], ids[100:] * 0, config, seed=0).role == role[100:]).all()
