"""What saves memory changes no result: activations that are computed again, and a batch that is halved when memory runs out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

from mgsr.config.families import LoraConfig
from mgsr.models.language_model import LanguageModel
from mgsr.rollouts.sequence import Sequence, collate, response_states
from mgsr.training.trainer import train
from tests.models_support import IDS, TARGETS, TOKENIZER, random_model
from tests.training_support import MGSR, SCRG_MIXED, assert_same, make_root, metrics, run_spec

INSIDE = {"llama": "model.layers.0.mlp", "opt": "model.decoder.layers.0.fc1", "gpt2": "transformer.h.0.mlp"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize("kind", TARGETS)
def test_activations_computed_again_give_the_same_loss_and_gradients(kind: str) -> None:
    results: list[list[torch.Tensor | None]] = []
    calls: list[int] = []
    for again in (False, True):
        model = random_model(kind).train()
        model.get_submodule(INSIDE[kind]).register_forward_pre_hook(lambda *_, again=again: calls.append(again))
        if again:
            model.activation_checkpointing_enable()
        sequences = [Sequence(str(row), tuple(ids[:4]), tuple(ids[4:]), False) for row, ids in enumerate(IDS.tolist())]
        batch = collate(sequences, 1)
        torch.manual_seed(0)  # of dropout
        states = response_states(LanguageModel.of(model, TOKENIZER), batch)
        loss = -states.log_probabilities().gather(-1, batch.targets[:, None]).mean()
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert calls == [False, True, True]  # once, or twice
    assert len(results[0]) > 10 and all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, dropout=0.1)])
def test_a_run_with_gradient_checkpointing_is_the_same_run(
    root: Path, lora: LoraConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = LlamaMLP.forward, list[bool]()

    def forward(self: LlamaMLP, *args: object, **settings: object) -> object:
        calls.append(self.training)
        return original(self, *args, **settings)

    monkeypatch.setattr(LlamaMLP, "forward", forward)
    trained = []
    for again in (False, True):
        calls.clear()
        spec = run_spec(SCRG_MIXED, MGSR, steps=4, dropout=0.2, lora=lora, gradient_checkpointing=again)
        train(f"{lora is None} {again}", spec, root)
        trained.append(sum(calls))
    assert trained[1] == 2 * trained[0] > 0
    runs = [f"{lora is None} {again}" for again in (False, True)]
    if lora is None:
        assert_same(root, *runs)
    else:
        states = [(root / "runs" / run / "model/adapter_model.safetensors").read_bytes() for run in runs]
        assert states[0] == states[1] and metrics(root, runs[0]) == metrics(root, runs[1])
