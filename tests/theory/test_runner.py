"""Which runs are asked for, and what a finished one can be recomputed from."""

from dataclasses import replace

import numpy as np
import pytest

from core import runs
from core.errors import InputError
from core.seeds import Cell
from theory import config as configs
from theory import runner

MODEL_PARTS = "subject_values relation_values template_value subject_logit relation_logit template_logit".split()


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory):
    """A finished run with its weights, and what progress was told."""
    out, told = tmp_path_factory.mktemp("runs"), []
    runner.run(small, "mine", [Cell(0, 0, 0)], out, save_weights=True, progress=lambda *one: told.append(one))
    return runs.read_run(runs.directory(out, "theory", "mine", Cell(0, 0, 0))), told


def logsumexp(logits: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits).sum(axis=1))


@pytest.mark.parametrize("arm", ["base", "top", "bottom", "whole", "random"])
def test_the_table_of_facts_is_recomputed_from_the_saved_weights_alone(saved, arm):
    """A reader's own numpy, with no help of ours."""
    run, _ = saved
    arrays = run.arrays()
    columns = run.table("facts").to_pydict()
    rows = np.flatnonzero(np.array(columns["arm"]) == arm)
    found = {name: np.array(column)[rows] for name, column in columns.items()}
    fact, (s, r, a) = np.arange(1200), (arrays[name] for name in ("subject", "relation", "answer"))
    v_s, v_r, v_q, z_s, z_r, z_q = (arrays[f"{arm}/{part}"].astype(float) for part in MODEL_PARTS)
    odds = np.exp(np.stack([z_s[s], z_r[r], np.broadcast_to(z_q, s.shape)], axis=1))
    attention = odds / odds.sum(axis=1, keepdims=True)
    logits = attention[:, :1] * v_s[s] + attention[:, 1:2] * v_r[r] + attention[:, 2:] * v_q
    names = np.array([f"a{i}" for i in range(80)] + [f"filler{i}" for i in range(50)])
    correct = logits.argmax(axis=1) == a
    train = arrays["role"] == 0
    generic = np.array([np.bincount(a[train & (r == one)]).argmax() for one in range(4)])
    expected = {
        "fact": fact,
        "subject": np.array([f"s{i}" for i in s]),
        "relation": np.array([f"r{i}" for i in r]),
        "answer": names[a],
        "popularity": arrays["popularity"],
        "exposure": arrays["exposure"] * 600 * 128,
        "knownness": arrays["popularity"],
        "role": np.array(["train", "dev", "held_out", "background"])[arrays["role"]],
        "salience": v_s[s, a],
        "correct": correct,
        "predicted": names[logits.argmax(axis=1)],
        "answer_logprob": logits[fact, a] - logsumexp(logits),
        "predicted_probability": np.exp(logits.max(axis=1) - logsumexp(logits)),
        "answer_probability": np.exp(logits[fact, a] - logsumexp(logits)),
        "subject_attention": attention[:, 0],
        "relation_attention": attention[:, 1],
        "template_attention": attention[:, 2],
        "is_generic": logits.argmax(axis=1) == generic[r],
        "base_correct": (arrays["base/subject_values"][s].astype(float) + arrays["base/relation_values"][r]).argmax(1)
        == a,
    }
    if arm == "base":
        expected["generic_correct"] = generic[r] == a
    else:
        own = arrays[f"{arm}/in_arm"]
        generic = np.array([np.bincount(a[own & (r == one)]).argmax() for one in range(4)])
        expected |= {"in_arm": own, "generic_correct": generic[r] == a}
        expected["is_generic_arm"] = logits.argmax(axis=1) == generic[r]
    # Critical attention by its definition: where the answer's logit stops being the largest, as the share varies.
    share = attention[:, 0] / attention[:, :2].sum(axis=1)
    np.testing.assert_array_equal((found["critical_low"] < share) & (share < found["critical_high"]), correct)
    for name, column in expected.items():
        if column.dtype.kind == "f":
            np.testing.assert_allclose(found[name], column, rtol=2e-6, atol=1e-30, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], column, err_msg=name)
    tested = set(expected) | {"arm", "critical_low", "critical_high"}
    of_theory = {"share_force", "salience_threshold", "predicted_salience"}
    filled = {name for name, column in found.items() if any(value is not None for value in column)}
    assert filled - tested <= of_theory


def test_progress_is_told_of_training_measuring_and_each_finished_run(saved):
    _, told = saved
    assert told == [("training 1 world together", 0), ("measuring 0/0/0", 0), ("", 1)]


def test_runs_of_another_config_under_other_seeds_are_refused_as_they_would_be_averaged(tmp_path, small):
    runner.run(small, "mixed", [Cell(0, 0, 0)], tmp_path)
    other = replace(small, finetune=replace(small.finetune, steps=small.finetune.steps + 1))
    with pytest.raises(InputError, match="another config"):
        runs.unfinished(tmp_path, "theory", "mixed", [Cell(1, 1, 1)], configs.to_json(other), overwrite=False)
    with pytest.raises(InputError, match="another config"):
        runs.unfinished(tmp_path, "theory", "mixed", [Cell(1, 1, 1)], configs.to_json(other), overwrite=True)
    assert runs.unfinished(tmp_path, "theory", "mixed", [Cell(0, 0, 0)], configs.to_json(other), overwrite=True) == [
        Cell(0, 0, 0)
    ]
