import numpy as np
import pyarrow.parquet as pq
import pytest

from core import questions, runs, statistics
from core.questions import Covariance
from core.runs import Run


def asked(path, model, split, arms, *, seed=0, subjects=None, relations=None, base_correct=None) -> Run:
    """Write a run with these answers of each arm to its held-out questions, and the means in its report."""
    tables, metrics = [], {}
    for arm, correct in arms.items():
        n = len(correct)
        known = np.ones(n, bool) if base_correct is None else base_correct
        names = {"subject": subjects or [f"s{i}" for i in range(n)], "relation": relations or ["r"] * n}
        numbers = {"correct": correct, "base_correct": known, "is_generic": ~correct, "subject_attention": correct / 2}
        tables.append({"arm": arm, "role": "held_out", "fact": np.arange(n), **names, **numbers})
        metrics[arm] = {"accuracy": float(correct.mean()), "retention": float(correct[known].mean())}
    report = {"seeds": {"pretrain": model, "split": split, "seed": seed}, "config": {}, "metrics": metrics}
    place = path / "empirical" / "study" / f"pretrain_{model}" / f"split_{split}" / f"seed_{seed}"
    runs.write_run(place, report, {"facts": tables})
    return runs.read_run(place)


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    return {"top": rng.random(200) < 0.6, "bottom": rng.random(200) < 0.4}


GAP = {"top": 1.0, "bottom": -1.0}


def test_the_covariance_of_one_split_is_that_of_means_over_clusters():
    values, cluster = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 13
    found = questions.covariance(("a", "b"), [values[None]], [[f"c{i}" for i in cluster]])
    np.testing.assert_allclose(found.matrix, statistics.clustered_covariance(values, cluster))
    assert found.n_clusters == 13


def test_a_question_without_a_value_has_no_part_and_means_of_none_are_not_known():
    values = np.random.default_rng(0).normal(size=(1, 40, 2))
    values[0, :10, 0] = np.nan
    values[0, :, 1] = np.nan
    found = questions.covariance(("a", "b"), [values], [[str(i) for i in range(40)]])
    rest = values[0, 10:, 0]
    assert found.matrix[0, 0] == pytest.approx(40 / 39 * rest.var() / 30)
    assert np.isnan(found.matrix[1]).all()


def test_what_finetuning_seeds_differ_by_is_added():
    values = np.random.default_rng(0).normal(size=(1, 40, 1))
    names = [[str(i) for i in range(40)]]
    one = questions.covariance(("a",), [values.repeat(2, axis=0)], names).matrix[0, 0]
    apart = np.concatenate([values, values + 1])
    assert questions.covariance(("a",), [apart], names).matrix[0, 0] == pytest.approx(one + 0.5 / 2)


def test_splits_that_share_their_questions_are_as_good_as_one_and_others_halve_the_variance(tmp_path, answers):
    others = [f"t{i}" for i in range(200)]
    made = [asked(tmp_path, 0, 0, answers), asked(tmp_path, 0, 1, answers)]
    made.append(asked(tmp_path, 0, 2, answers, subjects=others))

    def variance(*splits):
        return questions.of_arms([made[split] for split in splits])["accuracy"].of(GAP)[0, 0]

    assert variance(0, 1) == pytest.approx(variance(0))
    assert variance(0, 2) == pytest.approx(variance(0) / 2, rel=0.01)


def test_questions_of_ten_relations_or_more_cluster_by_relation():
    relation, subject = [f"r{i}" for i in range(10)], ["A", "a", None] + ["b"] * 7
    assert questions.clusters(relation, subject, range(10)) == (relation, True)
    names, by_relation = questions.clusters(["r"] * 10, subject, range(10))
    assert names[:4] == ["a", "a", "fact 2", "b"] and not by_relation


def test_retention_is_of_the_questions_that_the_base_recalls(tmp_path, answers):
    known = np.arange(200) < 50
    run = asked(tmp_path, 0, 0, answers, base_correct=known)
    gap = (answers["top"].astype(float) - answers["bottom"])[known]
    expected = 200 / 199 * gap.var() / 50
    assert questions.of_arms([run])["retention"].of(GAP)[0, 0] == pytest.approx(expected)


def test_base_models_are_counted_where_there_are_three_and_runs_may_keep_no_questions(tmp_path, answers):
    made = [asked(tmp_path, model, 0, answers) for model in range(3)]
    assert questions.of_arms(made) == {} and set(questions.of_arms(made[:2])) == set(questions.COLUMNS)
    (made[0].path / "facts.parquet").unlink()
    assert questions.of_arms(made[:1]) == {}


def test_what_is_kept_beside_collected_runs_is_read_as_it_was(tmp_path, answers):
    run = asked(tmp_path, 0, 0, answers)
    found = questions.of_arms([run])
    both: dict[tuple[str | None, str], Covariance] = {(None, metric): of for metric, of in found.items()}
    both["a:b", "mlp"] = found["accuracy"]
    pq.write_table(questions.table_of(both), run.path.parents[2] / questions.FILE)
    back = questions.of_arms([Run(run.path, run.report | {"collected": True})])
    assert set(back) == set(found) and back["accuracy"].n_clusters == 200
    np.testing.assert_allclose(back["retention"].matrix, found["retention"].matrix)
    assert list(questions.kept([run]))[-1] == ("a:b", "mlp")
