"""Estimated peaks beside measured ones: small models of four architectures train, decode and are read on the CPU, while torch's
profiler counts the bytes that its allocator gives out. The estimate runs on tensors without data and sees none of that."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mgsr.config.families import LoraConfig, TinyModel
from mgsr.config.measurement import EvaluationConfig, ExposureConfig
from mgsr.config.run_specs import TrainSpec
from mgsr.config.specs import ExposureSpec, ModelSpec
from mgsr.cost import peaks
from mgsr.data.encoding import Example
from mgsr.models import architectures
from mgsr.models.build import build_model
from mgsr.storage import read_json
from mgsr.training import trainer
from tests.training_support import DATA, MGSR, SCRG_MIXED, evaluation_spec, make_root, run_spec

AnyModule = TypeVar("AnyModule", bound=nn.Module)
SIZE = {"vocab_size": 3000}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 352, "max_position_embeddings": 256, **SIZE},
    "gpt2": {"model_type": "gpt2", "n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 256, **SIZE},
    "opt": {"model_type": "opt", "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "ffn_dim": 512,
            "word_embed_proj_dim": 128, "max_position_embeddings": 256, **SIZE},
    "qwen2": {"model_type": "qwen2", "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 352, "max_position_embeddings": 256, **SIZE},
}  # fmt: skip
LENGTHS = DATA.model_copy(update={"max_length": 128, "max_prompt_length": 64})
QWEN2 = architectures.Architecture("model", "model.layers", "num_hidden_layers", ("attention_dropout",))


@pytest.fixture(autouse=True)
def one_more_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2, which has no reader in the static decoder, so it is decoded on transformers' own cache."""
    monkeypatch.setitem(architectures.ARCHITECTURES, "qwen2", QWEN2)


class Profiler:
    """In place of the counting of bytes: the allocator's own account, read when the work is done."""

    now = peak = 0

    def restart(self) -> None: ...
    def add_module(self, module: nn.Module) -> None: ...


def with_data(module: AnyModule) -> AnyModule:
    """In place of `without_data`: each parameter without data gets small random numbers."""
    replaced: dict[nn.Parameter, nn.Parameter] = {}
    for part in module.modules():
        for name, old in list(part._parameters.items()):
            if old is not None and old.is_meta:
                if old not in replaced:
                    values = torch.empty(old.shape, dtype=old.dtype).normal_(std=0.02)
                    replaced[old] = nn.Parameter(values, requires_grad=old.requires_grad)
                part._parameters[name] = replaced[old]
    return module


def measured(work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """The most bytes that the CPU's allocator had given out at one time while the same work was done with data."""
    gc.collect()
    with monkeypatch.context() as patch, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        patch.setattr(peaks, "without_data", with_data)
        patch.setattr(peaks, "counting_bytes", lambda: nullcontext(Profiler()))
        work()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert len(events) > 100
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def training(**changes: Any) -> TrainSpec:
    return run_spec(**{
        "data_config": LENGTHS, "max_new_tokens": 64, "global_batch": 8, "micro_batch": 4, "rollout_batch": 8, "chunk": 64,
        **changes,
    })  # fmt: skip


MINILLM = {
    "sequences": {"policy": "collection", "collection": {"rollouts": 8}},
    "objective": {"sft_weight": 1.0, "distillation": {"name": "policy_gradient"}},
}
LORA = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "opt": ["q_proj", "v_proj"], "qwen2": ["q_proj", "v_proj"]}


def estimate_of(kind: str, work: str) -> Callable[[], int]:
    model = MODELS[kind]
    student = {**model, "n_layer" if kind == "gpt2" else "num_hidden_layers": 2}
    if work == "evaluation":
        settings = EvaluationConfig(batch=16, max_new_tokens=64)
        spec = evaluation_spec("run", max_length=128, max_prompt_length=64, evaluation=settings)
        return partial(peaks.evaluation_peak, student, model, spec, "fp32")
    if work == "exposure":
        exposure = ExposureSpec(
            run="run", samples="samples", exposure=ExposureConfig(lengths=(64,)), teacher_run="teacher", max_new_tokens=64,
            test_set="dolly", rows=None, max_length=128, max_prompt_length=64, batch=16, threads=1, code="",
        )  # fmt: skip
        return partial(peaks.exposure_peak, student, model, exposure, "fp32")
    specs = {
        "SFT": training(),
        "MGSR": training(sequences=SCRG_MIXED, objective=MGSR),
        "MGSR, bf16, adapters": training(
            sequences=SCRG_MIXED, objective=MGSR, precision="bf16", lora=LoraConfig(dropout=0.0, target_modules=LORA[kind])
        ),
        "MiniLLM": training(**MINILLM),
    }
    teacher = None if work == "SFT" else model
    return lambda: max(peaks.training_peaks(student, teacher, specs[work]).values())


IN_THE_TEST_COMMAND = {
    "llama": ("MGSR, bf16, adapters",), "gpt2": ("evaluation",), "opt": ("MiniLLM",), "qwen2": ("exposure",)
}  # fmt: skip
WORKS = ("SFT", "MGSR", "MGSR, bf16, adapters", "MiniLLM", "evaluation", "exposure")
CASES = [
    pytest.param(kind, work, marks=() if work in chosen else (pytest.mark.everything,))
    for kind, chosen in IN_THE_TEST_COMMAND.items()
    for work in WORKS
]


@pytest.mark.parametrize(("kind", "work"), CASES)
def test_the_estimate_is_within_15_percent_of_what_is_measured(kind: str, work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = estimate_of(kind, work)
    expected, seen = estimate(), measured(estimate, monkeypatch)
    print(f"{kind}, {work}: estimated {expected / 2**20:.2f} MiB, measured {seen / 2**20:.2f} MiB, {expected / seen - 1:+.1%}")
    assert seen > 2**20 and expected == pytest.approx(seen, rel=0.15)


def test_the_estimate_is_within_15_percent_of_a_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole run of MGSR, from loading to saving, on rows of full length."""
    root = make_root(tmp_path)
    for folder, layers in (("runs/teacher/model", 4), ("models/student", 2)):
        shutil.rmtree(root / folder)
        model = TinyModel(builder="tiny", layers=layers, width=128, heads=4, initializer_range=0.02, max_length=128)
        build_model(ModelSpec(model=model, seed=layers, code=""), root / folder)
    encode = trainer.encode_examples

    def full(*arguments: Any) -> tuple[list[Example], dict[str, int]]:
        examples, counts = encode(*arguments)
        return [
            replace(
                example, prompt_ids=(example.prompt_ids * 64)[:64], response_ids=(example.response_ids * 64)[: 64 - row % 2]
            )
            for row, example in enumerate(examples)
        ], counts

    monkeypatch.setattr(trainer, "encode_examples", full)
    sequences = {**SCRG_MIXED, "student_share": 1.0}
    spec = training(sequences=sequences, objective=MGSR, steps=2, validations=1, validation_rows=3)
    seen = measured(lambda: trainer.train("run", spec, root), monkeypatch)
    student, teacher = (read_json(root / folder / "config.json") for folder in ("models/student", "runs/teacher/model"))
    expected = max(peaks.training_peaks(student, teacher, spec).values())
    print(f"a run of MGSR: estimated {expected / 2**20:.2f} MiB, measured {seen / 2**20:.2f} MiB, {expected / seen - 1:+.1%}")
    assert expected == pytest.approx(seen, rel=0.15)
