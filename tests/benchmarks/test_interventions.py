"""The benchmark of interventions on a small model: each is timed, beside a plain evaluation."""

import json

import pytest

pytest.importorskip("transformers")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import interventions
from benchmarks.interventions import Settings
from core.errors import InputError
from empirical.lm import tokenizer
from empirical.worlds import corpus, world
from empirical.worlds.world import WorldConfig


def test_every_intervention_is_timed_beside_a_plain_evaluation(tmp_path, capsys):
    words = tokenizer.train(corpus.vocabulary(world.build(WorldConfig(n_subjects=50), seed=0)), size=400)
    torch.manual_seed(0)
    sizes: dict = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    out = tmp_path / "times.json"
    interventions.run(Settings(str(tmp_path / "model"), questions=3, what=("mlp@end",), repeats=2, out=out))
    seconds = json.loads(out.read_text())["seconds"]
    assert list(seconds) == [
        *(interventions.ANSWERS, interventions.PLAIN, "knockout", "patch mlp@end", "graft query_key", "graft mlp")
    ]
    assert all(len(found) == 2 and min(found) > 0 for found in seconds.values())
    assert "a plain evaluation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(questions=0), "--questions is 0"),
        (Settings(grafts=("hat",)), "no part 'hat'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        interventions.run(settings)
