"""Does this machine compute what it should? `mgsr doctor` tells in two minutes, with models and records of its own, without
network: what a GPU gives is compared with what the CPU gives, or without a GPU the CPU with itself."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mgsr.config.families import TinyModel
from mgsr.config.method import Method
from mgsr.config.record_sets import DataConfig
from mgsr.config.run_specs import TrainSpec
from mgsr.config.specs import DataSpec, ModelSpec, spec_digest
from mgsr.config.stages import stage_code
from mgsr.data.prepare import prepare_data
from mgsr.devices import default_device, device_name, visible_gpus
from mgsr.errors import MgsrError
from mgsr.models.build import build_model
from mgsr.models.language_model import LanguageModel
from mgsr.models.loading import load_model, load_tokenizer
from mgsr.rollouts.sampler import Decoding, Prompt, Row, complete
from mgsr.storage import read_jsonl, write_json
from mgsr.training.distributed import World
from mgsr.training.launch import start_processes
from mgsr.training.trainer import Trainer

CPU = torch.device("cpu")
STEPS = 4
RECORDS = DataSpec(source="builtin", place=None, split="paper", contents={}, code="")
DATA = DataConfig(source="builtin", max_length=128, max_prompt_length=100, train_rows=32, validation_rows=8)
TRAINING = {"global_batch": 8, "learning_rate": 1e-3, "validations": 2, "validation_rows": 4, "log_every": 1}
OBJECTIVE = {"sft_weight": 1.0, "distillation": {"name": "dac_kl"}, "span_weight": 1.0}
ARCHITECTURES = ("llama", "gpt2")


class _Interrupted(Exception):
    pass


class _InterruptedTrainer(Trainer):
    """It stops as by Ctrl-C after its first checkpoint."""

    def save(self) -> None:
        super().save()
        raise _Interrupted


class Bench:
    """A results folder with records and untrained models, on which runs take a second, and the device under examination."""

    def __init__(self, root: Path, device: torch.device) -> None:
        self.root, self.device = root, device
        write_json(root / "specs" / f"{spec_digest(RECORDS)}.json", RECORDS.model_dump(mode="json"))
        prepare_data(root, spec_digest(RECORDS))
        for kind in ARCHITECTURES:
            for width, folder in ((16, self.model(kind)), (32, root / "runs" / kind / "model")):
                model = TinyModel(builder="tiny", architecture=kind, layers=2, width=width, heads=2, initializer_range=0.1)
                build_model(ModelSpec(model=model, seed=width, code=""), folder)

    def model(self, kind: str) -> Path:
        return self.root / "models" / kind

    def spec(self, kind: str, processes: int = 1, **training: Any) -> TrainSpec:
        """A run of the student, with all terms of MGSR's loss on the records' own responses, under a teacher."""
        settings = {"title": kind, "start": "base", "objective": OBJECTIVE}
        return TrainSpec(
            family=kind,
            method=Method.model_validate({**settings, "training": {"steps": STEPS, **TRAINING, **training}}),
            seed=10,
            data=spec_digest(RECORDS),
            data_config=DATA,
            max_new_tokens=16,
            validation_protocol="plain",
            base_model=kind,
            start_run=None,
            teacher_run=kind,
            lora=None,
            threads=torch.get_num_threads(),
            processes=processes,
            code=stage_code("train"),
            custom_code={},
        )

    def losses(self, spec: TrainSpec, device: torch.device, trainer: type[Trainer] = Trainer) -> list[float]:
        """The losses of training and validation, in order; the run goes on from a checkpoint where it has one."""
        run = trainer(spec_digest(spec), spec, self.root, World(0, 1, device))
        run.train()
        return [line["loss"] for line in run.lines]


def _difference(given: list[float], expected: list[float]) -> float:
    """The largest relative one."""
    return max(abs(x - y) / abs(y) for x, y in zip(given, expected, strict=True))


def _agree(given: list[float], expected: list[float], tolerance: float, what: str) -> str:
    difference = _difference(given, expected)
    if not difference <= tolerance:
        raise MgsrError(f"{what} differ by {difference:.1e}, more than {tolerance:.0e}")
    return f"{what} agree to {difference:.0e}" if difference else f"{what} are equal"


# -- the checks: each says what it found, or raises an error -------------------------------------------------------------


def find_gpu(bench: Bench) -> str:
    if bench.device.type == "cuda":
        memory = torch.cuda.get_device_properties(bench.device).total_memory / 2**30
        return f"{device_name(bench.device)} with {memory:.0f} GiB, torch {torch.__version__}"
    if gpus := visible_gpus():
        raise MgsrError(f"nvidia-smi lists {len(gpus)} GPUs, of which torch {torch.__version__} can use none")
    return f"no GPU was found, so the CPU is compared with itself; torch {torch.__version__}"


def losses_agree(bench: Bench) -> str:
    expected = [loss for kind in ARCHITECTURES for loss in bench.losses(bench.spec(kind), CPU)]
    given = [loss for kind in ARCHITECTURES for loss in bench.losses(bench.spec(kind), bench.device)]
    where = "on the CPU, twice," if bench.device == CPU else f"on the CPU and on {bench.device}"
    return _agree(given, expected, 1e-3, f"the losses of {len(expected)} steps {where}")


def bf16_is_near(bench: Bench) -> str:
    expected = bench.losses(bench.spec("llama"), CPU)
    given = bench.losses(bench.spec("llama", precision="bf16"), bench.device)
    return _agree(given, expected, 2e-2, "the losses in bf16 and fp32")


def attention_kernels(bench: Bench) -> str:
    """Fused kernels are those that training under bf16 needs, if long sequences are to fit."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 8, 256, 64, generator=generator)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    query, key, value = (x.to(bench.device, torch.bfloat16) for x in (query, key, value))
    found = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
        try:
            with sdpa_kernel(backend):
                given = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        except RuntimeError:  # "No available kernel"
            continue
        if (error := float((given.float().cpu() - expected).abs().max())) > 5e-2:
            raise MgsrError(f"the attention kernel {backend.name.lower()} is off by {error:.2g}")
        found.append(backend.name.lower())
    if found in ([], ["math"]):
        raise MgsrError("no fused attention kernel runs in bf16")
    return f"attention kernels {', '.join(found)}"


def _most_probable(vocabulary: int, logits: list[Tensor], rows: list[Row], keys: Tensor) -> Tensor:
    return logits[0][:, :vocabulary].argmax(-1)


def sampler_equals_generate(bench: Bench) -> str:
    """The most probable token at each step, by the suite's sampler and by transformers' own."""
    steps, prompts = 24, [(5, 6, 7, 8), (20, 21), (9, 30, 31, 32, 33, 34, 35)]
    for kind in ARCHITECTURES:
        model: Any = load_model(bench.model(kind), device=bench.device)
        own = LanguageModel.of(model, load_tokenizer(bench.model(kind)))
        decoding = Decoding(steps, 128, seed=0, batch=2)
        rows = [Row(Prompt(str(number), prompt), decoding, own.eos_id, "doctor") for number, prompt in enumerate(prompts)]
        complete([own], rows, partial(_most_probable, own.vocabulary), decoding.batch)
        length = max(map(len, prompts))
        padded = [[own.pad_id] * (length - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        ids, attended = (torch.tensor(values, device=bench.device) for values in (padded, mask))
        settings = {"do_sample": False, "max_new_tokens": steps, "eos_token_id": own.eos_id, "pad_token_id": own.pad_id}
        theirs = model.generate(ids, attention_mask=attended, **settings)[:, length:].tolist()
        for row, text in zip(rows, theirs, strict=True):
            if row.response != text[: len(row.response)]:
                raise MgsrError(f"a {kind} model writes {row.response[:8]}... by the sampler and {text[:8]}... by transformers")
    return f"the sampler writes what transformers' generate does, {len(ARCHITECTURES) * len(prompts)} texts"


def a_run_resumes(bench: Bench) -> str:
    whole = bench.losses(bench.spec("llama"), bench.device)
    stopped = bench.spec("llama", checkpoint_seconds=0.0)
    try:
        bench.losses(stopped, bench.device, _InterruptedTrainer)
    except _Interrupted:
        return _agree(bench.losses(stopped, bench.device), whole, 1e-4, "the losses of a run and of one that was interrupted")
    raise MgsrError("the run wrote no checkpoint")


def two_processes(bench: Bench) -> str:
    """On two GPUs, or else on the CPU."""
    on_gpus = bench.device.type == "cuda" and torch.cuda.device_count() > 1
    device, environment = (bench.device, {}) if on_gpus else (CPU, {"CUDA_VISIBLE_DEVICES": ""})
    expected = [float(f"{loss:.6g}") for loss in bench.losses(bench.spec("llama"), device)]
    spec = bench.spec("llama", processes=2)
    name = spec_digest(spec)
    write_json(bench.root / "specs" / f"{name}.json", spec.model_dump(mode="json"))
    done = start_processes(bench.root, name, spec.processes, env=environment, capture_output=True)
    if done.returncode:
        raise MgsrError(f"they ended with status {done.returncode}: {done.stderr[-300:]}")
    given = [line["loss"] for line in read_jsonl(bench.root / "runs" / name / "metrics.jsonl")]
    return _agree(given, expected, 2e-3, f"the losses of one process and of two on {'GPUs' if on_gpus else 'the CPU'}")


@dataclass(frozen=True)
class Check:
    """`find` gives what it found. Where it raises an error, `remedy` is what to do."""

    find: Callable[[Bench], str]
    remedy: str

    def line(self, bench: Bench) -> str:
        """`ok: what` or `failed: what, what to do`."""
        noise = io.StringIO()
        try:
            with redirect_stderr(noise):
                return f"ok: {self.find(bench)}"
        except Exception as error:  # whatever a driver or a kernel may raise
            return f"failed: {self.find.__name__.replace('_', ' ')}: {error}; {self.remedy}"


_UPDATE = "update the driver, and reinstall torch for its version of CUDA (https://pytorch.org/get-started)"
CHECKS = {
    check.find.__name__: check
    for check in (
        Check(find_gpu, "install the build of torch that fits the driver (https://pytorch.org/get-started)"),
        Check(losses_agree, f"no result of this device can be trusted; {_UPDATE}"),
        Check(bf16_is_near, f"set training.precision to fp32, or {_UPDATE}"),
        Check(attention_kernels, f"long sequences take more memory than planned; {_UPDATE}"),
        Check(sampler_equals_generate, f"no text of this device can be trusted; {_UPDATE}"),
        Check(a_run_resumes, "look whether the disk of the temporary folder (TMPDIR) is full or faulty"),
        Check(two_processes, "set processes to 1, or see whether a firewall closes 127.0.0.1 or NCCL_DEBUG=INFO names a fault"),
    )
}


def examine(device: torch.device | None = None) -> Iterator[str]:
    """The line of each check, as it comes."""
    with tempfile.TemporaryDirectory(prefix="mgsr-doctor-") as folder:
        bench = Bench(Path(folder), device or default_device())
        for check in CHECKS.values():
            yield check.line(bench)


def main() -> None:
    """Print the lines. Raises MgsrError where a check failed."""
    started, failed = time.monotonic(), 0
    for line in examine():
        print(line, flush=True)
        failed += line.startswith("failed")
    if failed:
        raise MgsrError(f"{failed} of {len(CHECKS)} checks failed")
    print(f"all {len(CHECKS)} checks passed in {time.monotonic() - started:.0f} seconds")
