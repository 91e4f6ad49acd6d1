import numpy as np
import pyarrow as pa
import pytest

from paper_figs import load
from paper_figs.load import InputError


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


def test_facts_are_those_of_the_arm_and_role(results):
    run = load.read(results.add() / "report.json")
    facts = run.facts("top", "fact", "correct", role="held_out")
    assert facts["fact"].tolist() == list(range(0, 40, 2))
    assert facts["correct"].sum() == 14
    assert len(run.facts("base", "fact")["fact"]) == 40


def test_missing_folder_and_folder_without_runs_are_named_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match="there is no folder .*absent"):
        load.experiments(tmp_path / "absent")
    with pytest.raises(InputError, match="no finished runs under .*\n.*python -m theory run paper"):
        load.experiments(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seeds": {}}', "\udcff"])
def test_damaged_report_is_named(results, text):
    report = results.add() / "report.json"
    report.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match="cannot read .*report.json"):
        results.read()


def test_damaged_or_missing_table_is_named(results):
    path = results.add()
    run = load.read(path / "report.json")
    (path / "facts.parquet").write_bytes((path / "facts.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot read .*facts.parquet"):
        run.facts("top", "correct")
    (path / "trace.parquet").unlink()
    with pytest.raises(InputError, match="cannot read .*trace.parquet: No such file"):
        run.trace("top", "step")


def test_what_a_run_lacks_is_named(results):
    run = load.read(results.add(changes={"top": {"salience": pa.nulls(40, pa.float64())}}) / "report.json")
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
