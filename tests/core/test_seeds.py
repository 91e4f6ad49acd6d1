"""What --seeds and its like ask for, in both flows."""

import pytest

from core.errors import InputError
from core.seeds import Cell, Seeds


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        (Seeds(), [Cell(0, 0, 0)]),
        (Seeds(3), [Cell(0, 0, 0), Cell(1, 1, 1), Cell(2, 2, 2)]),
        (Seeds(seed=7), [Cell(7, 7, 7)]),
        (Seeds(5, seed=7), [Cell(7, 7, 7)]),
        (Seeds(2, pretrain_seeds=2), [Cell(0, 0, 0), Cell(0, 0, 1), Cell(1, 0, 0), Cell(1, 0, 1)]),
        (Seeds(1, split_seeds=3), [Cell(0, 0, 0), Cell(0, 1, 0), Cell(0, 2, 0)]),
        (Seeds(seed=4, pretrain_seeds=2, split_seeds=2), [Cell(p, q, 4) for p in (0, 1) for q in (0, 1)]),
    ],
)
def test_seeds_count_replications_or_each_kind_of_randomness_apart(seeds, expected):
    assert seeds.cells() == expected


@pytest.mark.parametrize(
    ("seeds", "named"),
    [
        (Seeds(0), "--seeds is 0"),
        (Seeds(pretrain_seeds=0), "--pretrain-seeds is 0"),
        (Seeds(split_seeds=-1), "--split-seeds is -1"),
        (Seeds(seed=-1), "--seed is -1"),
        (Seeds(seed=2**31), "--seed is 2147483648"),
    ],
)
def test_a_count_of_seeds_that_counts_nothing_is_refused(seeds, named):
    with pytest.raises(InputError, match=named):
        seeds.cells()


def test_replications_of_a_published_model_have_a_split_and_batches_of_their_own():
    assert Seeds(3).cells(pretrains=False) == [Cell(0, 0, 0), Cell(0, 1, 1), Cell(0, 2, 2)]
    assert Seeds(2, split_seeds=1).cells(pretrains=False) == [Cell(0, 0, 0), Cell(0, 0, 1)]
