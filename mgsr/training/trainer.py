"""One training run: its spec goes in, and a model folder with its record and metrics comes out. Interrupted anywhere, the same
call goes on from the last checkpoint; on CPU at one thread count it ends with the same weights as an uninterrupted run."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from mgsr.config.code_check import planned_code
from mgsr.config.measurement import NO_REPEAT_NGRAM
from mgsr.config.run_specs import TrainSpec
from mgsr.config.specs import read_spec
from mgsr.data.encoding import Example, encode_examples
from mgsr.data.records import load_records
from mgsr.devices import device_name, peak_memory
from mgsr.errors import MgsrError
from mgsr.models.adapters import save_adapter
from mgsr.models.language_model import HiddenStates, LanguageModel, load_frozen
from mgsr.models.loading import (
    check_shared_vocabulary,
    load_model,
    load_tokenizer,
    load_trainable_state,
    save_model,
    trainable_state,
    trained_weights,
)
from mgsr.objectives.objective import Objective
from mgsr.rollouts.noise import row_key
from mgsr.rollouts.sampler import Decoding
from mgsr.rollouts.sequence import response_states
from mgsr.storage import is_sealed, new_folder, read_json, write_json, write_jsonl
from mgsr.training.checkpoint import load_checkpoint, load_optimizer_tensors, optimizer_tensors, run_lock, save_checkpoint
from mgsr.training.clock import Clock
from mgsr.training.distributed import World, start_world
from mgsr.training.run_record import RECORD, WarningSigns, make_record
from mgsr.training.source import StepSource
from mgsr.training.step import ForwardPass, StepSequences, TrainStep, forward_passes
from mgsr.training.texts import Models
from mgsr.training.validation import VALIDATION_SEED, cross_entropy, validation_scores


def learning_rate_at(step: int, steps: int, spec: TrainSpec) -> float:
    """A linear warm-up, then a cosine from `learning_rate` to `final_learning_rate` at the last of `steps`."""
    training = spec.method.training
    if step <= training.warmup_steps:
        return spec.learning_rate * step / training.warmup_steps
    progress = (step - 1 - training.warmup_steps) / max(1, steps - 1 - training.warmup_steps)
    low = min(training.final_learning_rate, spec.learning_rate)
    return low + (spec.learning_rate - low) * 0.5 * (1 + math.cos(math.pi * progress))


def evenly(steps: int, count: int) -> set[int]:
    """`count` of the steps 1..`steps` (all, if there are fewer), evenly spread, the last one among them."""
    count = min(count, steps)
    return {round(steps * k / count) for k in range(1, count + 1)}


class Trainer:
    """Holds the state of a run, and loops over its optimiser steps."""

    def __init__(self, run: str, spec: TrainSpec, root: Path, world: World) -> None:
        self.run, self.spec, self.world = run, spec, world
        self.training, self.root = spec.method.training, root
        self.folder = root / "checkpoints" / run
        self._load_models()
        self._load_data()
        self.steps = self.training.steps_of(len(self.examples))
        self.clock = Clock(world.device)
        with_spans = "span" in self.objective.weights
        self.source = StepSource(spec, self.models, self.examples, self.steps, world, self.clock, with_spans)
        self.optimizer = self._make_optimizer()
        self.validate_at = evenly(self.steps, self.training.validations)
        checks = spec.method.sequences.off_policy.checks if spec.method.sequences.policy == "off_policy" else None
        # steps whose validation loss the rollout policy gets; step 0 is before training
        self.check_at = {0} | (evenly(self.steps, checks) if checks else self.validate_at)
        self.step, self.lines = 0, list[dict[str, Any]]()
        self.best: dict[str, Any] | None = None
        self.best_state: dict[str, torch.Tensor] = {}
        self.best_scores: dict[str, float] = {}
        self.warning_signs = WarningSigns(spec)
        self.peak_memory = 0

    # -- set-up --------------------------------------------------------------------------------------------------------

    def _load_models(self) -> None:
        spec = self.spec
        base = self.root / "models" / spec.base_model
        self.start = self.root / "runs" / spec.start_run / "model" if spec.start_run else base
        self.tokenizer = load_tokenizer(self.start)
        settings: dict[str, Any] = {"dropout": self.training.dropout, "lora": spec.lora, "seed": spec.seed}
        settings |= {"device": self.world.device, "precision": self.training.precision}
        self.student = load_model(self.start, **settings)
        if self.training.gradient_checkpointing:
            plain: Any = self.student.get_base_model() if isinstance(self.student, PeftModel) else self.student
            plain.activation_checkpointing_enable()
        student, teacher = LanguageModel.of(self.student, self.tokenizer), None
        if spec.teacher_run:
            folder = self.root / "runs" / spec.teacher_run / "model"
            teacher, tokenizer = load_frozen(folder, self.training.precision, self.world.device)
            check_shared_vocabulary(tokenizer, self.tokenizer)
        self.models = Models(student, teacher, self.tokenizer, self.training.precision)
        self.objective = Objective(spec.method.objective, student.vocabulary, spec.seed).to(self.world.device)
        module = TrainStep(student, self.objective, self.training.chunk)
        self.world.barrier()  # one process may have loaded for longer than a collective waits
        self.module = DistributedDataParallel(module) if self.world.size > 1 else module

    def _load_data(self) -> None:
        folder, config = self.root / "data" / self.spec.data, self.spec.data_config
        self.data_digest = read_json(folder / "manifest.json")["digest"]
        self.dropped: dict[str, Any] = {}

        def examples(split_name: str, rows: int | None) -> list[Example]:
            kept, self.dropped[split_name] = encode_examples(load_records(folder, split_name)[:rows], self.tokenizer, config)
            if not kept:
                raise MgsrError(f"{folder}: no {split_name} row has a prompt of at most {config.max_prompt_length} tokens")
            return kept

        self.examples = examples("train", config.train_rows)
        self.validation = examples("validation", config.validation_rows)

    def _make_optimizer(self) -> torch.optim.AdamW:
        trained = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        groups = [{"params": trained, "weight_decay": self.training.weight_decay}]
        if of_objective := [parameter for parameter in self.objective.parameters() if parameter.requires_grad]:
            groups.append({"params": of_objective, "weight_decay": 0.0})
        return torch.optim.AdamW(groups, lr=self.spec.learning_rate, betas=self.training.betas)

    @contextmanager
    def _naming_errors(self, step: int) -> Iterator[None]:
        """Errors inside name the run and this step."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise MgsrError(
                f"run {self.run}, step {step}: memory ran out ({error}); lower training.micro_batch or training.rollout_batch, "
                "or set training.gradient_checkpointing"
            ) from error
        except MgsrError as error:
            raise MgsrError(f"run {self.run}, step {step}: {error}") from error

    # -- one optimiser step --------------------------------------------------------------------------------------------

    def _optimise(self, step: int) -> dict[str, Any]:
        """Make one optimiser step. Returns what the metrics say about it."""
        sequences, facts = self.source.step(step)
        self.objective.progress = step / self.steps
        torch.manual_seed(row_key(self.spec.seed, "dropout", step, self.world.rank) >> 1)  # dropout is the only user
        self.student.train()
        figures: dict[str, Any] = self._accumulate_gradients(sequences)
        with self.clock.measure("update"):
            groups = self.optimizer.param_groups
            figures |= self._clip_gradients(groups[:1] if sequences.sft_only else groups)
            self._stop_unless_finite(facts["source"], sequences, figures)
            if sequences.sft_only:
                for parameter in self.objective.parameters():
                    parameter.grad = None  # at a gradient of 0 AdamW would go on by its momentum
            for group in groups:
                group["lr"] = learning_rate_at(step, self.steps, self.spec)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.objective.after_step(figures)
        return figures | facts | {"learning_rate": groups[0]["lr"]}

    def _accumulate_gradients(self, sequences: StepSequences) -> dict[str, float]:
        """Forward and backward pass of every micro-batch. Returns the loss and its terms' sums, over all processes."""
        totals: defaultdict[str, float] = defaultdict(float)
        pad_id = self.models.student.pad_id
        micro_batches = list(forward_passes(sequences, self.objective, self.training.micro_batch, pad_id, self.world))
        for number, micro_batch in enumerate(micro_batches, 1):
            passes = [forward_pass.to(self.world.device) for forward_pass in micro_batch]
            with self.models.autocast():
                with self.clock.measure("teacher"), torch.no_grad():
                    teacher_states = [self._teacher_states(forward_pass) for forward_pass in passes]
                last = number == len(micro_batches)
                waits = nullcontext() if last or self.world.size == 1 else self.module.no_sync()  # type: ignore[operator]
                with self.clock.measure("student"), waits:
                    loss, sums = self.module(passes, teacher_states)
                    # DistributedDataParallel averages over processes; the weights already hold the global divisor
                    (loss * self.world.size).backward()
            totals["loss"] += float(loss.detach())
            for name, value in sums.items():
                totals[name] += float(value)
        names = sorted(totals.keys() & {"loss", "sft"} if sequences.sft_only else totals)
        return dict(zip(names, self.world.sum(totals[name] for name in names), strict=True))

    def _clip_gradients(self, groups: list[dict[str, Any]]) -> dict[str, float]:
        """Clip each group's gradient. Returns the norms before that: the student's, and the objective's if it is trained."""
        of_objective = "clip_network_gradient_norm" if self.objective.dac_kl is not None else "loss_gradient_norm"
        names, clip = ("gradient_norm", of_objective), self.training.gradient_clip
        norms = [float(torch.nn.utils.clip_grad_norm_(group["params"], clip)) for group in groups]
        return dict(zip(names, norms, strict=False))

    def _teacher_states(self, forward_pass: ForwardPass) -> HiddenStates | None:
        teacher = self.models.teacher
        return response_states(teacher, forward_pass.batch) if teacher is not None and forward_pass.uses_teacher else None

    def _stop_unless_finite(self, source: str, sequences: StepSequences, figures: dict[str, float]) -> None:
        """Raise MgsrError before an update that would spoil the weights. Where the loss is finite, a gradient need not be."""
        for name in ("loss", "gradient_norm", "clip_network_gradient_norm", "loss_gradient_norm"):
            if not math.isfinite(figures.get(name, 0.0)):
                ids = ", ".join(sequence.example_id for sequence in self.world.gather(sequences.distilled))
                raise MgsrError(
                    f"the {name.replace('_', ' ')} on {source} sequences is {figures[name]}. Examples: {ids}. "
                    f"The last good checkpoint is kept in {self.folder}; lower training.learning_rate, or drop this rate from "
                    "its grid"
                )

    # -- validation, checkpoints ---------------------------------------------------------------------------------------

    def _validate(self, with_scores: bool) -> None:
        spec, student, batch = self.spec, self.models.student, self.training.rollout_batch
        with self.clock.measure("validation"), self.models.autocast():
            loss = cross_entropy(student, self.validation, batch=batch, chunk=self.training.chunk, world=self.world)
            line: dict[str, Any] = {"step": self.step, "kind": "validation", "loss": loss}
            if with_scores:
                rows = self.validation[: self.training.validation_rows]
                ngram = NO_REPEAT_NGRAM[spec.validation_protocol]
                decoding = Decoding(spec.max_new_tokens, spec.data_config.max_length, VALIDATION_SEED, batch, ngram)
                scores = validation_scores(student, self.tokenizer, rows, decoding, self.world)
                line["rouge_l"] = math.fsum(scores.values()) / len(scores)  # exact, so in whatever order
        if self.step in self.check_at:
            self.source.on_validation(loss)
        self.lines.append(line)
        if with_scores:
            by_score = self.training.select_by == "rouge_l"
            if self.best is None or (line["rouge_l"] > self.best["rouge_l"] if by_score else loss < self.best["loss"]):
                self.best = {"step": self.step, "loss": loss, "rouge_l": line["rouge_l"]}
                self.best_scores = scores
                self.best_state = trainable_state(self.student)

    def save(self) -> None:
        """Write a checkpoint of this very step."""
        if self.world.is_main:
            # as they stand on the device: a file after the other passes the host's memory
            tensors = {"student": trained_weights(self.student), "optimizer": optimizer_tensors(self.optimizer)}
            tensors |= {"objective": objective} if (objective := self.objective.state_dict()) else {}
            tensors |= {"best": self.best_state} if self.best_state else {}
            state = {
                "source": self.source.state_dict(), "best": self.best, "best_scores": self.best_scores, "lines": self.lines,
                "timings": dict(self.clock.seconds), "signatures": self.warning_signs.state_dict(),
                "peak_memory": max(self.peak_memory, peak_memory(self.world.device)), "data_digest": self.data_digest,
            }  # fmt: skip
            save_checkpoint(self.folder, self.step, tensors, state)
        self.world.barrier()

    def resume(self) -> bool:
        """Continue from the newest sound checkpoint, if there is one."""
        checkpoint = load_checkpoint(self.folder)
        if checkpoint is None:
            return False
        self.step, tensors, state = checkpoint
        if state["data_digest"] != self.data_digest:
            raise MgsrError(f"{self.folder}: the data changed since this run began; remove the folder to begin anew")
        load_trainable_state(self.student, tensors["student"])
        load_optimizer_tensors(self.optimizer, tensors["optimizer"])
        if "objective" in tensors:
            self.objective.load_state_dict(tensors["objective"])
        self.source.load_state_dict(state["source"])
        self.best, self.best_state, self.lines = state["best"], tensors.get("best", {}), state["lines"]
        self.best_scores, self.peak_memory = state["best_scores"], state["peak_memory"]
        self.warning_signs.load_state_dict(state["signatures"])
        self.clock.seconds.update(state["timings"])
        return True

    # -- the loop ------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Make all steps from the current one on, with validations evenly spread and checkpoints by time."""
        steps = self.steps
        if not self.resume():
            with self.clock.measure("total"), self._naming_errors(0):
                self._validate(with_scores=False)  # the adaptive schedule compares with the loss before training
        saved = time.monotonic()
        name = f"{self.spec.family} {self.spec.method.title}"
        bar = tqdm(total=steps, initial=self.step, desc=name, disable=not self.world.is_main, mininterval=5.0)
        while self.step < steps:
            with self.clock.measure("total"), self._naming_errors(self.step + 1):
                figures = self._optimise(self.step + 1)
                self.step += 1
                self.warning_signs.on_step(self.step, figures)
                if self.step % self.training.log_every == 0 or self.step == steps:
                    self.lines.append({"step": self.step, "kind": "train", **figures})
                    bar.set_postfix(loss=f"{figures['loss']:.3f}")
                if self.step in self.validate_at | self.check_at:
                    self._validate(with_scores=self.step in self.validate_at)
            bar.update()
            due = self.world.sum([time.monotonic() - saved >= self.training.checkpoint_seconds])[0] == self.world.size
            if due and self.step < steps:
                self.save()
                saved = time.monotonic()
        bar.close()
        self.peak_memory = max(self.peak_memory, *self.world.gather([peak_memory(self.world.device)]))

    def _sequences_per_second(self) -> float:
        """Sequences trained on, per second of making them and training on them. Start, checkpoints and validations take no part
        in it."""
        seconds = self.clock.seconds["total"] - self.clock.seconds["validation"]
        return self.steps * self.training.global_batch / seconds

    def _save_student(self, folder: Path) -> None:
        """Write the best weights: the adapters alone, where there are some, as the start holds all others."""
        if isinstance(self.student, PeftModel):
            with new_folder(folder) as new:
                save_adapter(self.student, self.best_state, self.start, new)
                self.tokenizer.save_pretrained(new)
        else:
            load_trainable_state(self.student, self.best_state)
            save_model(self.student, self.tokenizer, folder)

    def finish(self, out: Path) -> None:
        """Write the best model, its record and its metrics; then the checkpoints are no longer needed."""
        if self.best is None:
            raise MgsrError(f"run {self.run}: no validation took place")
        lines = [{k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in line.items()} for line in self.lines]
        record = make_record(
            self.run,
            self.spec,
            data_digest=self.data_digest,
            dropped=self.dropped,
            train_rows=len(self.examples),
            steps=self.steps,
            threads=torch.get_num_threads(),
            processes=self.world.size,
            device=device_name(self.world.device),
            parameters=sum(value.numel() for name, value in self.student.named_parameters() if ".lora_" not in name),
            peak_memory_bytes=self.peak_memory,
            examples_per_second=round(self._sequences_per_second(), 3),
            timings={name: round(seconds, 3) for name, seconds in self.clock.seconds.items()},
            learning_rate=self.spec.learning_rate,
            best_step=self.best["step"],
            validation=self.best,
            validation_scores={name: round(score, 4) for name, score in sorted(self.best_scores.items())},
            student_step_share=self.source.student_share,
            warnings=self.warning_signs.warnings(self.source.student_share),
        )
        with new_folder(out) as new:
            self._save_student(new / "model")
            write_json(new / "spec.json", self.spec.model_dump(mode="json"))
            write_jsonl(new / "metrics.jsonl", lines)
            write_json(new / RECORD, record)
        shutil.rmtree(self.folder, ignore_errors=True)


def train(run: str, spec: TrainSpec, root: Path) -> None:
    """Train `runs/<run>` below `root`, from the last checkpoint where there is one. Called in every process of the run."""
    started = time.perf_counter()
    torch.set_num_threads(spec.threads)
    world = start_world()
    with run_lock(root / "checkpoints" / run) if world.is_main else nullcontext():
        if world.gather([world.is_main and is_sealed(root / "runs" / run)])[0]:
            return  # another process has just finished it
        trainer = Trainer(run, spec, root, world)
        trainer.clock.seconds["start"] = time.perf_counter() - started
        trainer.train()
        if world.is_main:
            trainer.finish(root / "runs" / run)
        world.barrier()


def main() -> None:
    """The entry of processes that torchrun starts; the environment holds the results folder and the run's digest."""
    root, run = Path(os.environ["MGSR_ROOT"]), os.environ["MGSR_RUN"]
    try:
        with planned_code(root, run, "train"):
            train(run, read_spec(root, run, TrainSpec), root)
    except MgsrError as error:
        sys.exit(f"mgsr: {error}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
