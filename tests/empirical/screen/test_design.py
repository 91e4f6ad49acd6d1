import numpy as np
import pytest

from core import columns
from core.factors import FACTORS
from empirical import config as configs
from empirical.experiments import SCREEN
from empirical.screen import design


def test_the_design_is_of_resolution_four():
    levels = design.design()
    assert levels.shape == (16, len(FACTORS)) and len({tuple(row) for row in levels}) == 16
    # Columns are orthogonal, and no product of two is another main effect.
    np.testing.assert_array_equal(levels.T @ levels, 16 * np.eye(len(FACTORS)))
    pairs = [levels[:, i] * levels[:, j] for i in range(7) for j in range(i)]
    assert not np.any(np.array(pairs) @ levels)
    assert not levels.sum(0).any()


@pytest.mark.parametrize("variant", design.variants(SCREEN), ids=lambda variant: variant.name)
def test_every_world_is_a_config_of_its_name_with_its_values(variant):
    configs.check(variant.config)
    world = variant.config.world
    assert world.n_subjects * world.facts_per_subject == design.N_FACTS
    if variant.part == "factorial":
        letters = variant.name.removeprefix("screen-")
        expected = {f.name: f.high if letter == "h" else f.low for f, letter in zip(FACTORS, letters, strict=True)}
        assert design.values(world) == expected


def test_no_two_variants_share_a_folder():
    names = [variant.name for variant in design.variants(SCREEN)]
    assert len(set(names)) == len(names)


def test_fine_worlds_differ_from_the_centre_in_their_factor_alone():
    for variant in design.variants(SCREEN, ["fine"]):
        centre = {f.name: f.high if letter == "h" else f.low for f, letter in zip(FACTORS, design.CENTRE, strict=True)}
        own = design.values(variant.config.world)
        assert {name for name in own if own[name] != centre[name]} <= {variant.series}


def test_recipes_share_the_base_models_of_their_ends():
    ends = {end: design.variants(SCREEN, ["factorial"]) for end in design.ENDS}
    for variant in design.variants(SCREEN, ["recipe"]):
        (same,) = [one for one in ends[variant.series] if one.name == f"screen-{design.ENDS[variant.series]}"]
        assert variant.config.world == same.config.world and variant.config.pretrain == same.config.pretrain


def test_the_factors_are_columns_of_the_studys_table():
    assert tuple(factor.name for factor in FACTORS) == columns.FACTORS
