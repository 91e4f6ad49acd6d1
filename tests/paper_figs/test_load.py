from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import runs
from core.errors import InputError
from paper_figs import load
from paper_figs.reads import EVERY, Read


def test_runs_of_one_world_are_averaged_before_worlds_are_compared(results):
    results.add(world=0, split=0, top=0.6)
    results.add(world=0, split=1, top=0.8)
    results.add(world=1, top=0.9)
    paper = results.read()["paper"]
    assert paper.n_worlds == 2
    np.testing.assert_allclose(paper.metric("top", "accuracy"), [0.7, 0.9])


def test_runs_are_read_in_the_order_of_numbers_and_only_when_finished(results):
    for world in (10, 2):
        results.add(world=world)
    unfinished = results.folder / "theory" / "paper" / "pretrain_3" / "split_0" / ".seed_3.partial"
    unfinished.mkdir(parents=True)
    (unfinished / "report.json").write_text("{}")
    assert [run.world for run in results.read()["paper"].runs] == [2, 10]


def _read(path):
    """Return the run in this folder."""
    return load.Run(path, runs.read_run(path).report)


def test_facts_are_those_of_the_arm_and_role(results):
    run = _read(results.add())
    facts = run.facts("top", "fact", "correct", role="held_out")
    assert facts["fact"].tolist() == list(range(0, 40, 2))
    assert facts["correct"].sum() == 14
    assert len(run.facts("base", "fact")["fact"]) == 40


def test_missing_folder_and_folder_without_runs_are_named_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match="there is no folder .*absent"):
        load.results(tmp_path / "absent")
    with pytest.raises(InputError, match="no finished runs under .*\n.*python -m theory run paper"):
        load.results(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seeds": {}}', "\udcff"])
def test_damaged_report_is_named(results, text):
    report = results.add() / "report.json"
    report.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match="cannot read .*report.json"):
        results.read()


def test_damaged_or_missing_table_is_named(results):
    path = results.add()
    run = _read(path)
    (path / "facts.parquet").write_bytes((path / "facts.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot read .*facts.parquet"):
        run.facts("top", "correct")
    (path / "trace.parquet").unlink()
    with pytest.raises(InputError, match="cannot read .*trace.parquet: No such file"):
        run.trace("top", "step")


def test_what_a_run_lacks_is_named(results):
    run = _read(results.add(changes={"top": {"salience": pa.nulls(40, pa.float64())}}))
    with pytest.raises(InputError, match="it has no column exposures"):
        run.facts("top", "exposures")
    with pytest.raises(InputError, match="no salience in held-out facts of top"):
        run.facts("top", "salience", role="held_out")
    with pytest.raises(InputError, match="trace.parquet has no rows of middle"):
        run.trace("middle", "step")
    with pytest.raises(InputError, match=r"report.json has no metrics.top.retention"):
        run.metric("top", "retention")


def test_runs_of_different_configs_share_no_interval(results):
    results.add(world=0)
    results.add(world=1, steps=3000)
    with pytest.raises(InputError, match="pretrain_0.* and .*pretrain_1.* runs of different configs"):
        results.read()


def test_studies_and_the_screen_are_read_apart_from_experiments_and_single_worlds_left_out(results):
    results.add_study("tiny", world=1)
    results.add_study("screen-hhhhhhh")
    found = load.results(results.folder)
    assert not any((found.experiments, found.sweeps, found.screens)) and list(found.studies) == ["tiny"]
    assert [run.world for run in found.studies["tiny"].runs] == [1]
    results.add_screen(["factorial"])
    assert list(load.results(results.folder).screens) == ["screen"]


def test_verdicts_on_other_runs_are_refused_and_the_command_named(results):
    first = results.add_study(seed=0)
    results.add_study(seed=1)
    assert set(results.read_studies()["tiny"].predictions()["seeds"].to_pylist()) == {2}
    (first / "report.json").unlink()
    with pytest.raises(InputError, match=f"rests on other runs .*\\n.*empirical compare tiny --out {results.folder}"):
        results.read_studies()["tiny"].predictions()
    (results.folder / "empirical" / "tiny" / "predictions.parquet").unlink()
    with pytest.raises(InputError, match="predictions.parquet is missing"):
        results.read_studies()["tiny"].predictions()


AXES = ("facts.answer_skew", "model.template_strength")


def _change(results, change):
    """Rewrite the table of a made-up sweep, and read the sweep."""
    path = results.add_sweep("phase-format") / "table.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    return results.read_sweep("phase-format")


def test_sweep_is_read_by_world_and_level_in_whatever_order_its_rows_are(results):
    shuffled = _change(results, lambda table: table.take(np.random.default_rng(0).permutation(len(table))))
    found = shuffled.by_world("top", "accuracy", *AXES)
    skew, strength = (shuffled.levels(axis) for axis in AXES)
    world = np.arange(3)[:, None, None] - 1
    np.testing.assert_allclose(
        found, 0.6 + (0.01 * (strength - 4 - 2 * skew[:, None]) + 0.004 * world) / 2, rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(shuffled.by_world("top", "accuracy", *AXES[::-1]), found.swapaxes(1, 2))


def test_runs_of_one_world_in_a_sweep_are_averaged(results):
    def merge(table):
        at = table.schema.get_field_index("pretrain_seed")
        return table.set_column(at, table.schema.field(at), pa.array(np.minimum(table["split_seed"], 1), pa.int32()))

    merged = _change(results, merge).by_world("top", "accuracy", *AXES)
    results.add_sweep("phase-format")
    alone = results.read_sweep("phase-format").by_world("top", "accuracy", *AXES)
    np.testing.assert_allclose(merged, [alone[0], alone[1:].mean(axis=0)])


def test_levels_are_numbers_in_order_and_words_as_designed(results):
    results.add_sweep("remedies")
    assert results.read_sweep("remedies").levels("remedy").tolist() == [
        "early stopping",
        "none",
        "KL 0.1",
        "values only",
    ]
    found = _change(results, lambda table: table.take(np.arange(len(table))[::-1])).levels(AXES[1])
    assert found.tolist() == [0, 5, 10, 20]


def test_number_that_a_run_of_a_sweep_lacks_is_nan(results):
    results.add_sweep("phase-format")
    found = results.read_sweep("phase-format").by_world("base", "predicted_subject_share", *AXES)
    assert found.shape == (3, 3, 4) and np.isnan(found).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.slice(1), r"lacks 1 of 36 combinations of world, facts.answer_skew, .*\n.*full grid"),
        (lambda table: pa.concat_tables([table, table]), "has several rows for one facts.answer_skew, .* other fields"),
        (lambda table: table.drop_columns(["model.template_strength"]), "it has no column model.template_strength"),
        (lambda table: table.slice(0, 0), "table.parquet has no rows of base"),
    ],
)
def test_sweep_that_is_no_full_grid_is_named_with_the_remedy(results, change, message):
    with pytest.raises(InputError, match=message):
        _change(results, change).by_world("base", "accuracy", *AXES)


def test_folder_with_a_sweep_alone_is_read_and_one_with_parts_alone_is_not(results):
    path = results.add_sweep("phase-format")
    found = load.results(results.folder)
    assert not found.experiments and list(found.sweeps) == ["phase-format"]
    (path / "table.parquet").rename(path / "part-0123.parquet")
    with pytest.raises(InputError, match="no finished runs"):
        load.results(results.folder)


def test_damaged_sweep_is_named(results):
    path = results.add_sweep("phase-format")
    sweep = results.read_sweep("phase-format")
    (path / "table.parquet").write_bytes((path / "table.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot read .*table.parquet: .*\n.*make it again"):
        sweep.by_world("top", "accuracy", *AXES)
    (path / "grid.json").write_text("[]")
    with pytest.raises(InputError, match="cannot read .*grid.json"):
        results.read()


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (Read("experiment", "stored"), "theory run stored --seeds 10"),
        (Read("experiment", "deep-2"), "theory deep deep-2 --seeds 10"),
        (Read("sweep", "remedies"), "theory sweep remedies"),
        (Read("study", "tiny-lora"), "empirical run tiny-lora --seeds 5 --pretrain-seeds 3"),
        (Read("screen", "screen"), "empirical run screen"),
    ],
)
def test_commands_name_what_makes_results_of_each_kind(read, expected):
    assert load.command(read, Path("runs")) == f"python -m {expected} --out runs"


def test_figure_is_given_what_it_reads_in_its_order_and_told_what_is_missing(results):
    results.add("stored")
    results.add("paper")
    results.add_study("tiny")
    finished = load.results(results.folder)
    reads = (Read("study", "tiny"), Read("experiment", "paper"), Read("experiment", EVERY, is_required=False))
    assert list(finished.read_by(reads)) == ["tiny", "paper", "stored"]
    absent = (Read("study", "paper"), Read("sweep", "remedies", is_required=False))
    assert finished.read_by(absent) == {} and finished.missing((*reads, *absent)) == list(absent)
