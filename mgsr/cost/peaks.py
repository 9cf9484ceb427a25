"""Peak memory of each kind of work that a job does, found by doing it on tensors without data, at the largest batch that the
configuration allows: sequences of `data.max_length`, answers of `evaluation.max_new_tokens`.

The work is called as the jobs call it. What is left out: the CUDA context, and what the allocator loses to fragments
(`cost/assumptions.yaml` has a reserve for them).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import AutoConfig

from mgsr.config.families import LoraConfig
from mgsr.config.run_specs import TrainSpec
from mgsr.config.specs import EvaluationSpec, ExposureSpec
from mgsr.cost.fake_tensors import LiveBytes, counting_bytes, without_data
from mgsr.data.encoding import Example
from mgsr.evaluation.exposure import divergences_by_position
from mgsr.evaluation.trained_model import TrainedModel, response_log_probabilities
from mgsr.models.kl import forward_kl, reverse_kl
from mgsr.models.language_model import LanguageModel, autocast, split
from mgsr.models.loading import Model, make_model
from mgsr.objectives.objective import Objective
from mgsr.rollouts.decoder import open_decoder
from mgsr.rollouts.sampler import Decoding, Prompt, Row, decode
from mgsr.rollouts.scrg import revise
from mgsr.rollouts.sequence import Sequence, response_states
from mgsr.training.distributed import World
from mgsr.training.step import StepSequences, TrainStep, forward_passes
from mgsr.training.validation import cross_entropy

ModelValues = dict[str, Any]  # of a transformers configuration, with its model_type
WORLD = World(0, 1, torch.device("cpu"))
SHORT = 8  # tokens of the prompts that only fill a batch
LAST = 3  # tokens that a decoded row still lacks: enough for all rows to be there at one time
PAD, WRITTEN = 0, 1  # token ids


def training_peaks(student: ModelValues, teacher: ModelValues | None, spec: TrainSpec) -> dict[str, int]:
    """Bytes by kind of work: `training` (forward and backward passes, the optimiser, SCRG's detection), `validation` (the loss;
    decoding, which rollouts are too), and where the method has it `collection`. `student`: the model that is trained."""
    training, method = spec.method.training, spec.method
    with _counting() as live, torch.enable_grad():
        model, trained = _model(student, live, training.precision, training.dropout, spec.lora)
        other = _model(teacher, live, training.precision, frozen=True)[0] if teacher else None
        objective = without_data(Objective(method.objective, model.vocabulary, spec.seed))
        live.add_module(objective)
        parameters = [x for module in (trained, objective) for x in module.parameters() if x.requires_grad]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer = torch.optim.AdamW(parameters, foreach=True)  # as on GPUs
        optimizer.step()
        trained.train()
        with autocast(training.precision, model.device):
            _one_micro_batch(model, other, objective, spec)
        del parameter
        peaks = {"training": live.peak}
        optimizer.zero_grad()
        trained.train(False)
        decoding = partial(Decoding, max_length=spec.data_config.max_length, seed=0, batch=training.rollout_batch)
        limit = method.sequences.max_new_tokens or spec.max_new_tokens
        with autocast(training.precision, model.device):
            if method.sequences.policy == "collection" and other:
                peaks["collection"] = _decoding_peak(live, [model, other], decoding(limit))
            if method.sequences.scrg and other:
                live.restart()
                texts = _sequences(training.rollout_batch, spec.data_config.max_length, limit)
                scrg = method.sequences.scrg.model_copy(update={"passes": 1, "teacher_token": "greedy"})  # it draws nothing
                revise(model, other, texts, [0] * len(texts), scrg, decoding(LAST), chunk=training.chunk)
                peaks["training"] = max(peaks["training"], live.peak)
            live.restart()
            length = spec.data_config.max_length
            rows = _sequences(training.rollout_batch, length, length // 2)
            examples = [Example(str(i), row.prompt_ids, row.response_ids, (), "") for i, row in enumerate(rows)]
            cross_entropy(model, examples, batch=training.rollout_batch, chunk=training.chunk, world=WORLD)
            peaks["validation"] = max(live.peak, _decoding_peak(live, [model], decoding(max(limit, spec.max_new_tokens))))
    return peaks


def evaluation_peak(student: ModelValues, teacher: ModelValues | None, spec: EvaluationSpec, precision: str) -> int:
    """Bytes while answers are decoded, and while the held-out divergence is measured."""
    settings = spec.evaluation
    with _counting() as live:
        models = [TrainedModel(_model(student, live, precision, frozen=True)[0], _no_tokenizer(), precision)]
        with models[0].autocast():
            peak = _decoding_peak(
                live, [models[0].model], Decoding(settings.max_new_tokens, spec.max_length, 0, settings.batch)
            )
        if teacher:
            models.append(TrainedModel(_model(teacher, live, precision, frozen=True)[0], _no_tokenizer(), precision))
            texts = _sequences(settings.batch, spec.max_length, spec.max_length // 2)
            live.restart()
            for _, (s_logp, t_logp) in response_log_probabilities(models, texts, settings.batch):
                forward_kl(s_logp, t_logp).double().sum()
                reverse_kl(s_logp, t_logp).double().sum()
        return max(peak, live.peak)


def exposure_peak(student: ModelValues, teacher: ModelValues, spec: ExposureSpec, precision: str) -> int:
    """Bytes while a student is sampled, and while both models read the samples."""
    limit = min(spec.max_new_tokens, max(spec.exposure.lengths))
    with _counting() as live:
        pair = [
            TrainedModel(_model(x, live, precision, frozen=True)[0], _no_tokenizer(), precision) for x in (student, teacher)
        ]
        with pair[0].autocast():
            peak = _decoding_peak(live, [pair[0].model], Decoding(limit, spec.max_length, 0, spec.batch))
        live.restart()
        divergences_by_position(pair[0], pair[1], _sequences(spec.batch, spec.max_prompt_length + limit, limit), spec.batch)
        return max(peak, live.peak)


# -- parts -------------------------------------------------------------------------------------------------------------


@contextmanager
def _counting() -> Iterator[LiveBytes]:
    gc.collect()
    with counting_bytes() as live:
        yield live


def _no_tokenizer() -> Any:
    return None


def _model(
    values: ModelValues,
    live: LiveBytes,
    precision: str,
    dropout: float = 0.0,
    lora: LoraConfig | None = None,
    frozen: bool = False,
) -> tuple[LanguageModel, Model]:
    config = AutoConfig.for_model(**values)
    made = make_model(config, lambda _: None, dropout=dropout, lora=lora, seed=0, frozen=frozen, precision=precision)
    made = without_data(made)
    live.add_module(made)
    return LanguageModel(*split(made), eos_id=config.vocab_size - 1, pad_id=PAD, vocabulary=config.vocab_size), made


def _sequences(count: int, length: int, response: int) -> list[Sequence]:
    """Of full length, but for the last token of the last one: so the batch has a mask."""
    prompt = (WRITTEN,) * (length - response)
    texts = [Sequence(str(i), prompt, (WRITTEN,) * response, finished=False) for i in range(count)]
    return [*texts[:-1], Sequence(str(count), prompt, (WRITTEN,) * (response - 1), finished=False)]


def _one_micro_batch(model: LanguageModel, teacher: LanguageModel | None, objective: Objective, spec: TrainSpec) -> None:
    """Forward and backward pass of the costliest step, as `Trainer` makes it."""
    training, length = spec.method.training, spec.data_config.max_length
    texts = _sequences(min(training.micro_batch, training.global_batch), length, length // 2)
    generated = spec.method.sequences.policy != "dataset"
    columns = (
        [torch.ones(len(text.response_ids), 3) for text in texts] if spec.method.sequences.policy == "collection" else None
    )
    step = StepSequences(texts, [[(0, 2)] for _ in texts], list(texts) if generated else texts, rollout=columns)
    for passes in forward_passes(step, objective, len(texts), model.pad_id, WORLD):
        with torch.no_grad():
            states = [response_states(teacher, part.batch) if teacher and part.uses_teacher else None for part in passes]
        loss, _ = TrainStep(model, objective, training.chunk)(passes, states)
        loss.backward()


def _decoding_peak(live: LiveBytes, models: list[LanguageModel], decoding: Decoding) -> int:
    """Bytes while a full batch is decoded, one row of which has almost as many tokens as it may have. A cache is as wide as
    its longest row, so the others need not be long."""
    live.restart()
    limit = decoding.max_new_tokens
    prompt = Prompt("0", (WRITTEN,) * (decoding.max_length - limit), (WRITTEN,) * max(0, limit - LAST))
    rows = [Row(prompt, decoding, -1, "cost")]
    few = Decoding(LAST, decoding.max_length, 0, decoding.batch)
    rows += [Row(Prompt(str(i), (WRITTEN,) * SHORT), few, -1, "cost") for i in range(1, decoding.batch)]

    def choose(logits: list[torch.Tensor], running: list[Row], keys: torch.Tensor) -> torch.Tensor:
        logp = [x[:, : models[0].vocabulary].float().log_softmax(-1) for x in logits]
        mixed = logp[0] if len(logp) == 1 else torch.logaddexp(logp[0], logp[1])
        return (mixed - torch.empty_like(mixed)).argmax(-1)  # a stand-in for `draw`, whose blocks would take seconds here

    with torch.no_grad():
        decode([open_decoder(model) for model in models], rows, choose, decoding.batch, models[0].device)
    return live.peak
