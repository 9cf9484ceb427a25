"""What saves memory changes no result: activations that are computed again, and a batch that is halved when memory runs out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

from mgsr.config.families import LoraConfig
from mgsr.errors import MgsrError
from mgsr.evaluation import trained_model
from mgsr.evaluation.trained_model import TrainedModel, response_log_probabilities
from mgsr.models.language_model import LanguageModel
from mgsr.rollouts.decoder import CacheDecoder
from mgsr.rollouts.sampler import Decoding, Prompt
from mgsr.rollouts.sequence import Batch, Sequence, collate, response_states
from mgsr.rollouts.static_decoder import StaticDecoder
from mgsr.storage import read_json
from mgsr.training.step import TrainStep
from mgsr.training.trainer import train
from tests.models_support import IDS, TARGETS, TOKENIZER, random_model
from tests.runs_support import assert_same
from tests.training_support import MGSR, SCRG_MIXED, evaluated, evaluation_spec, make_root, run_spec

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
    assert_same(root, *runs)


# -- memory that runs out ----------------------------------------------------------------------------------------------


def small_memory(monkeypatch: pytest.MonkeyPatch, rows: int, kind: Any = StaticDecoder) -> list[int]:
    """A decoder has no room for more than so many rows from its fourth step on. Gives the sizes of the batches that were too
    large."""
    original, refused = kind.advance, list[int]()
    steps: dict[int, int] = {}

    def advance(self: Any, tokens: torch.Tensor, prompts: Any) -> torch.Tensor:
        steps[id(self)] = steps.get(id(self), 0) + 1
        if steps[id(self)] > 3 and len(tokens) + len(prompts) > rows:
            refused.append(len(tokens) + len(prompts))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, tokens, prompts)

    monkeypatch.setattr(kind, "advance", advance)
    return refused


@pytest.fixture
def write(root: Path) -> Callable[[], list[Sequence]]:
    """The teacher's texts to 16 prompts of several lengths, decoded at batch 16."""
    teacher = TrainedModel.load(root, "teacher")
    prompts = [Prompt(f"row {i}", tuple(range(5, 6 + i))) for i in range(16)]
    return lambda: teacher.write(prompts, Decoding(24, 64, seed=10, batch=16), "evaluation")


@pytest.mark.parametrize("kind", [StaticDecoder, CacheDecoder])
def test_a_batch_that_does_not_fit_is_halved_and_the_text_is_the_same(
    write: Callable[[], list[Sequence]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: Any
) -> None:
    if kind is CacheDecoder:
        monkeypatch.setattr("mgsr.rollouts.decoder.decoder_weights", lambda model: None)
    expected = write()
    refused = small_memory(monkeypatch, 3, kind)
    assert write() == expected
    assert refused == [16, 8, 4]
    assert "16 rows together do not fit into memory; going on with 8" in capsys.readouterr().err


def test_a_single_row_that_does_not_fit_is_an_error_with_its_remedy(
    write: Callable[[], list[Sequence]], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = small_memory(monkeypatch, 0)
    with pytest.raises(MgsrError, match=r"a single row does not fit into memory \(CUDA out of memory\); free the device"):
        write()
    assert refused == [16, 8, 4, 2, 1]


def test_given_responses_pass_in_smaller_groups(
    root: Path, write: Callable[[], list[Sequence]], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, texts = [TrainedModel.load(root, "teacher")], write()
    expected = dict(response_log_probabilities(models, texts, batch=8))
    sizes: list[int] = []

    def states(model: LanguageModel, batch: Batch) -> Any:
        sizes.append(len(batch.input_ids))
        if len(batch.input_ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return response_states(model, batch)

    monkeypatch.setattr(trained_model, "response_states", states)
    given = list(response_log_probabilities(models, texts, batch=8))
    assert sizes == [8, 4, 2, 2, 4, 2, 2] * 2
    assert [index for index, _ in given] == list(expected)
    for index, (logp,) in given:
        torch.testing.assert_close(logp, expected[index][0])


def test_an_evaluation_with_little_memory_has_the_same_scores(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train("measured", run_spec(steps=2, validations=1), root)
    folder = evaluated(root, evaluation_spec("measured"))
    rows, summary = (folder / "rows.jsonl").read_bytes(), read_json(folder / "summary.json")
    for answers in (root / "answers").iterdir():
        shutil.rmtree(answers)
    refused = small_memory(monkeypatch, 2)
    again = evaluated(root, evaluation_spec("measured"))
    assert refused and (again / "rows.jsonl").read_bytes() == rows
    assert read_json(again / "summary.json")["scores"] == summary["scores"]


def test_training_that_runs_out_of_memory_says_what_to_lower(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TrainStep, "forward", forward)
    with pytest.raises(MgsrError, match=r"run large, step 1: memory ran out .* lower training.micro_batch"):
        train("large", run_spec(), root)
