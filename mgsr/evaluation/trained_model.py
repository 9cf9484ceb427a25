"""A finished run's model, as every measurement uses it: it writes, and it is read position by position."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mgsr.config.record_sets import DataConfig
from mgsr.config.specs import RunSpec
from mgsr.data.examples import Example, encode_examples
from mgsr.data.records import load_records
from mgsr.errors import MgsrError
from mgsr.models.language_model import LanguageModel, autocast, inference, split
from mgsr.models.loading import load_model, load_tokenizer, narrow
from mgsr.rollouts.sampler import Decoding, Prompt, generate
from mgsr.rollouts.sequence import Sequence, by_length, collate, response_states
from mgsr.storage import read_json

SEED = 10  # of draws that are no decoding seed's: models are compared on common random numbers


@dataclass(frozen=True)
class RunModel:
    """The model of `runs/<run>` on its device. `precision` is the one that it was trained in."""

    model: LanguageModel
    tokenizer: PreTrainedTokenizerBase
    precision: str
    device: torch.device

    @classmethod
    def load(cls, root: Path, run: str) -> RunModel:
        folder = root / "runs" / run
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        precision = RunSpec.model_validate(read_json(folder / "spec.json")).method.training.precision
        model = load_model(folder / "model").requires_grad_(False)
        if precision == "bf16":
            narrow(model)  # before it reaches the device, which may not hold it in fp32
        model.to(device)  # type: ignore[arg-type]  # as in load_model
        return cls(split(model), load_tokenizer(folder / "model"), precision, device)

    @property
    def eos_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def test_set(self, data: Path, config: DataConfig, name: str) -> tuple[list[Example], int]:
        """A test set's rows that fit, in order, and how many were dropped."""
        kept, dropped = encode_examples(load_records(data, name)[: config.test_rows.get(name)], self.tokenizer, config)
        return kept, dropped["dropped_prompts"]

    def examples(self, data: Path, config: DataConfig, rows: int) -> list[Example]:
        """The first Dolly test rows that fit, at most `rows`."""
        kept, _ = self.test_set(data, config, "dolly")
        if not kept:
            raise MgsrError(f"{data}: no dolly row has a prompt of at most {config.max_prompt_length} tokens")
        return kept[:rows]

    def write(
        self, prompts: Items[Prompt], decoding: Decoding, *, purpose: str, visit: int | Items[int], batch: int, seed: int = SEED
    ) -> list[Sequence]:
        """One response to each prompt, sampled at T = 1."""
        with autocast(self.precision, self.device):
            return generate(
                self.model,
                prompts,
                decoding,
                seed=seed,
                purpose=purpose,
                visit=visit,
                eos_id=self.eos_id,
                pad_id=self.pad_id,
                vocabulary=len(self.tokenizer),
                batch=batch,
            )


def read(
    models: Items[RunModel], sequences: Items[Sequence], vocabulary: int, *, batch: int
) -> Iterator[tuple[int, list[Tensor]]]:
    """Teacher-forced on each sequence, longest first: its index and each model's log-probabilities [length, vocabulary] of the
    response. All run in the first one's precision. Nothing has a gradient."""
    first = models[0]
    with inference(*(run.model for run in models)), autocast(first.precision, first.device):
        for group in by_length([len(sequence) for sequence in sequences], batch):
            lengths = [len(sequences[i].response_ids) for i in group]
            part = collate([sequences[i] for i in group], first.pad_id).to(first.device)
            states = [response_states(run.model, part, vocabulary).split(lengths) for run in models]
            for i, *by_model in zip(group, *states, strict=True):
                yield i, [response.log_probabilities() for response in by_model]
