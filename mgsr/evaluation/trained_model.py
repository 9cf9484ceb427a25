"""A finished run's model, as every measurement uses it: it writes, and it predicts given responses position by position."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mgsr.config.specs import InDomainSpec
from mgsr.data.encoding import Example, encode_examples
from mgsr.data.records import load_records
from mgsr.devices import default_device, halved
from mgsr.errors import MgsrError
from mgsr.models.language_model import HiddenStates, LanguageModel, autocast, inference, load_frozen
from mgsr.models.loading import check_shared_vocabulary
from mgsr.rollouts.sampler import Decoding, Prompt, generate
from mgsr.rollouts.sequence import Sequence, by_length, collate, response_states
from mgsr.storage import read_json

SEED = 10  # of draws that are no decoding seed's: models are compared on common random numbers


@dataclass(frozen=True)
class TrainedModel:
    """The model of `runs/<run>` on its device. `precision` is the one that it was trained in."""

    model: LanguageModel
    tokenizer: PreTrainedTokenizerBase
    precision: str

    @classmethod
    def load(cls, root: Path, run: str) -> TrainedModel:
        folder = root / "runs" / run
        precision = read_json(folder / "training.json")["precision"]
        return cls(*load_frozen(folder / "model", precision, default_device()), precision)

    @classmethod
    def load_pair(cls, root: Path, student_run: str, teacher_run: str) -> tuple[TrainedModel, TrainedModel]:
        """A student and its teacher. Raises MgsrError where they do not share a vocabulary."""
        student, teacher = cls.load(root, student_run), cls.load(root, teacher_run)
        check_shared_vocabulary(teacher.tokenizer, student.tokenizer)
        return student, teacher

    def autocast(self) -> torch.autocast:
        return autocast(self.precision, self.model.device)

    def examples(self, root: Path, spec: InDomainSpec, rows: int) -> list[Example]:
        """The first rows of the spec's test set that fit, at most `rows`."""
        folder = root / "test_sets" / spec.test_set
        kept, _ = encode_examples(load_records(folder, "records")[: spec.rows], self.tokenizer, spec)
        if not kept:
            raise MgsrError(f"{folder}: no row has a prompt of at most {spec.max_prompt_length} tokens")
        return kept[:rows]

    def write(self, prompts: Items[Prompt], decoding: Decoding, purpose: str) -> list[Sequence]:
        """One sampled response to each prompt, in the order of the prompts."""
        with self.autocast():
            return generate(self.model, prompts, decoding, purpose=purpose)


def response_log_probabilities(
    models: Items[TrainedModel], sequences: Items[Sequence], batch: int
) -> Iterator[tuple[int, list[Tensor]]]:
    """What the models predict at each position of each response, teacher-forced: the sequence's index, and each model's
    log-probabilities [length, vocabulary], without gradient. The longest sequence comes first. All models run in the first
    one's precision. Where memory runs out, fewer sequences pass at once."""
    first = models[0]
    with inference(*(trained.model for trained in models)), first.autocast():
        waiting = list(by_length([len(sequence) for sequence in sequences], batch))
        while waiting:
            group = waiting.pop(0)
            try:
                states = _states(models, [sequences[i] for i in group])
            except torch.OutOfMemoryError as error:
                reason = str(error)  # the error itself holds what has to be freed
            else:
                for i, *by_model in zip(group, *states, strict=True):
                    yield i, [response.log_probabilities() for response in by_model]
                continue
            size = halved(len(group), reason)
            waiting = [group[:size], group[size:], *waiting]


def _states(models: Items[TrainedModel], sequences: Items[Sequence]) -> list[list[HiddenStates]]:
    """The states that predict each response, of each model."""
    lengths = [len(sequence.response_ids) for sequence in sequences]
    batch = collate(sequences, models[0].model.pad_id).to(models[0].model.device)
    return [response_states(trained.model, batch).split(lengths) for trained in models]
