"""A model that two processes share out is trained as by one: the same losses, weights, remedies and checkpoints."""

import copy
import os
import pickle
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.tensor import DTensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from core.errors import InputError
from empirical import finetune, measure, processes
from empirical.finetune import FinetuneConfig, Lora
from empirical.lm import cost, prompts, sharded, train_config
from empirical.lm.model import LanguageModel
from empirical.lm.remedies import Ranked
from empirical.lm.train_config import TrainConfig

pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")

# Of a step's five facts one process reads three, a pass each, and the other two; the last of three steps has one alone.
TRAIN = TrainConfig(epochs=1, batch_size=5, micro_batch_size=1, checkpoint_every=2, n_records=1, weight_decay=0.1)
N = 11
FULL = FinetuneConfig(train=TRAIN)
LORA = FinetuneConfig(method="lora", lora=Lora(dropout=0.0), train=TRAIN)
REMEDIES = {"kl_weight": 0.5, "known_weight": 1.0, "update_share": 0.5}
RECOMPUTED = replace(TRAIN, gradient_checkpointing=True)


@dataclass(frozen=True)
class Case:
    """A finetuning."""

    config: FinetuneConfig
    is_tied: bool = False
    is_mixed: bool = False
    rate: float = 1e-2


CASES = {
    "full": Case(FULL),
    "mixed": Case(FULL, is_mixed=True, rate=1e-3),
    "remedies": Case(replace(FULL, **REMEDIES, early_stopping=True, frozen=("mlp",), train=RECOMPUTED), is_tied=True),
    "adapter": Case(replace(LORA, **REMEDIES, train=replace(TRAIN, packing=True))),
}


@dataclass
class Tuned:
    """What came of a finetuning."""

    trace: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]
    norms: list[float]
    """Of each step's gradient, before it was clipped."""
    first: float
    """The first share of the training that was told of."""


def tuned(case: Case, folder: Path, work: Path, *, shard: bool) -> Tuned:
    """Return what comes of a finetuning, from its checkpoint of step 2 on if there is one, which it leaves."""
    network: Any = AutoModelForCausalLM.from_pretrained(folder / ("tied" if case.is_tied else "untied")).eval()
    examples = pickle.loads((folder / "examples.pickle").read_bytes())
    shares: list[float] = []
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def held(model: Any) -> dict[str, float]:
        own = [one.to_local() if isinstance(one, DTensor) else one for one in model.parameters()]
        share = sum(one.numel() for one in own) / sum(one.numel() for one in model.parameters())
        return measure.eval_subset(model, examples[:7], 2) | {"held": share}

    config = replace(case.config, train=replace(case.config.train, shard=shard))
    ranked = Ranked(examples, examples[:3], examples[3:9], np.arange(len(examples), 0, -1.0))
    base = LanguageModel(network, pickle.loads((folder / "words.pickle").read_bytes()), "made", is_mixed=case.is_mixed)
    options: dict[str, Any] = {"learning_rate": case.rate, "seed": 3, "work": work, "evaluate": held, "ranked": ranked}
    with pytest.MonkeyPatch.context() as patch:
        watched = lambda *given: norms.append(float(sharded.whole(clip(*given))))  # noqa: E731
        patch.setattr(torch.nn.utils, "clip_grad_norm_", watched)
        model, trace = finetune.run(config, base, examples, progress=lambda _, share: shares.append(share), **options)
    return Tuned(trace, {name: value.clone() for name, value in model.network.state_dict().items()}, norms, shares[0])


def session(folder: Path) -> None:
    """Do, as one of two processes, all that the tests compare; what this process makes goes into a file."""
    processes.start()
    cost.SIDE["cpu"] = 8  # how fast large matrices are multiplied is nobody's question here
    made: dict[str, Any] = {}
    for name, case in CASES.items():
        made[name] = tuned(case, folder, folder / "pair" / name, shard=True)
    made["begun by one"] = tuned(CASES["full"], folder, folder / "one" / "full", shard=True)
    with pytest.raises(finetune.DivergedError, match="diverged"):
        tuned(replace(CASES["full"], rate=1e30), folder, folder / "diverged", shard=True)
    made = {name: vars(one) for name, one in made.items()}  # whose class has another name where it is read
    (folder / f"made_{processes.number()}.pickle").write_bytes(pickle.dumps(made))
    processes.end()


def two_processes(folder: Path) -> None:
    """Run a session in two processes that share what is imported, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = []
    for rank in range(2):
        if not (child := os.fork()):
            os.environ.update(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            signal.alarm(120)  # processes that wait for each other end, too
            torch.set_num_threads(1)
            session(folder)
            os._exit(0)
        children.append(child)
    sys.exit(any([os.waitpid(child, 0)[1] for child in children]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sizes, words, tiny_world) -> Path:
    made = tmp_path_factory.mktemp("sharded")
    for name in ("tied", "untied"):
        torch.manual_seed(0)
        settings = LlamaConfig(**sizes | {"num_hidden_layers": 1}, tie_word_embeddings=name == "tied")
        LlamaForCausalLM(settings).save_pretrained(made / name)
    examples = prompts.encode(words, [prompts.build(fact) for fact in tiny_world.fact_set().facts[:N]])
    (made / "examples.pickle").write_bytes(pickle.dumps(examples))
    (made / "words.pickle").write_bytes(pickle.dumps(words))
    return made


@pytest.fixture(scope="module")
def alone(folder) -> dict[str, Tuned]:
    """Return what one process makes without sharing."""
    return {name: tuned(case, folder, folder / "one" / name, shard=False) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def pair(folder, alone) -> list[dict[str, Tuned]]:
    """Return what each of two processes made."""
    code = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), os.getcwd()]!r}; import test_sharded; "
    code += f"test_sharded.two_processes(test_sharded.Path({str(folder)!r}))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    made = [pickle.loads((folder / f"made_{rank}.pickle").read_bytes()) for rank in range(2)]
    return [{name: Tuned(**one) for name, one in own.items()} for own in made]


def check_same(ours: Tuned, theirs: Tuned, *, tolerance: float = 1e-5, held: float) -> None:
    for point, expected in zip(ours.trace, theirs.trace, strict=True):
        told = {name: value for name, value in point.items() if name != "held"}
        assert told == pytest.approx({name: expected[name] for name in told}, rel=tolerance)
    assert ours.trace[-1]["held"] == pytest.approx(held, rel=0.05)
    assert ours.norms == pytest.approx(theirs.norms[-len(ours.norms) :], rel=10 * tolerance)
    assert ours.weights.keys() == theirs.weights.keys()
    for name, value in ours.weights.items():
        assert type(value) is torch.Tensor
        torch.testing.assert_close(value, theirs.weights[name], rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_a_model_that_they_share_out_as_one_trains_it(name, pair, alone):
    for made in pair:
        check_same(made[name], alone[name], held=0.5, tolerance=2e-2 if name == "mixed" else 1e-5)


def test_a_training_goes_on_from_a_checkpoint_whether_or_not_the_model_was_shared_out(folder, pair, alone):
    here = tuned(CASES["full"], folder, folder / "pair" / "full", shard=False)
    there = pair[0]["begun by one"]
    assert alone["full"].first == 1 / 3 and here.first == there.first == 1
    check_same(there, alone["full"], held=0.5)
    check_same(here, alone["full"], held=1.0)


def test_layers_are_found_whatever_they_are_called(llama, sizes):
    small: dict[str, Any] = {"n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=sizes["vocab_size"], **small))
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes))
    adapted: Any = get_peft_model(copy.deepcopy(llama), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert sharded.layers(gpt2) == list(gpt2.transformer.h) and sharded.layers(neox) == list(neox.gpt_neox.layers)
    assert sharded.layers(llama) == list(llama.model.layers)
    assert sharded.layers(adapted) == list(adapted.get_base_model().model.layers)
    size = sum(one.numel() for one in gpt2.transformer.h[0].parameters())
    assert sharded.n_whole(gpt2) == gpt2.num_parameters() - size


def test_what_cannot_be_shared_out_is_refused_before_anything_is_computed(llama, words, monkeypatch):
    with pytest.raises(InputError, match="this is one.\nStart them with torchrun"):
        train_config.check(TrainConfig(shard=True))
    monkeypatch.setenv("WORLD_SIZE", "2")
    train_config.check(TrainConfig(shard=True))
    config = replace(FULL, train=TrainConfig(shard=True))
    finetune.check_base(config, LanguageModel(llama, words, "made"))
    llama.model.norm.to(torch.bfloat16)
    with pytest.raises(InputError, match="made cannot be shared out: its weights are of several types"):
        finetune.check_base(config, LanguageModel(llama, words, "made"))
    monkeypatch.setattr(llama, "is_quantized", True, raising=False)
    with pytest.raises(InputError, match="quantised.\nLeave out --finetune.train.shard"):
        finetune.check_base(config, LanguageModel(llama, words, "made"))
