"""A finished run's model, as every measurement uses it: it writes, and it is read position by position."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mgsr.config.specs import InDomainSpec
from mgsr.data.examples import Example, encode_examples
from mgsr.data.records import load_records
from mgsr.errors import MgsrError
from mgsr.models.language_model import LanguageModel, split
from mgsr.models.loading import load_model, load_tokenizer, narrow
from mgsr.objectives.chunked import log_probabilities
from mgsr.rollouts.decoder import inference
from mgsr.rollouts.sampler import Decoding, Prompt, generate
from mgsr.rollouts.sequence import Sequence, by_length, collate
from mgsr.storage import read_json
from mgsr.training.step import autocast, response_states

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
        precision = read_json(folder / "training.json")["precision"]
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

    def examples(self, root: Path, spec: InDomainSpec, rows: int) -> list[Example]:
        """The first rows of the spec's test set that fit, at most `rows`."""
        folder = root / "test_sets" / spec.test_set
        kept, _ = encode_examples(load_records(folder, "records"), self.tokenizer, spec)
        if not kept:
            raise MgsrError(f"{folder}: no row has a prompt of at most {spec.max_prompt_length} tokens")
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
            states = [torch.split(response_states(run.model, part), lengths) for run in models]
            for i, *own in zip(group, *states, strict=True):
                heads = zip(models, own, strict=True)
                yield i, [log_probabilities(run.model.head, hidden, vocabulary) for run, hidden in heads]
