"""Loss and ROUGE-L on the validation set, decoded as the final evaluation decodes."""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch

from mgsr.data.encoding import Example
from mgsr.models.language_model import LanguageModel, inference
from mgsr.rollouts.sampler import Decoding, Prompt, generate
from mgsr.rollouts.sequence import Sequence, by_length, collate, decode_texts, response_states
from mgsr.rouge import rouge_l_many
from mgsr.training.distributed import World

VALIDATION_SEED = 10  # of the decoding; the same at each validation, so that curves differ by the weights alone


def cross_entropy(model: LanguageModel, examples: Items[Example], *, batch: int, chunk: int, world: World) -> float:
    """Mean negative log-likelihood of a response token in nats, over the examples of all processes."""
    sequences = [Sequence.from_example(example, model.eos_id) for example in examples[world.rank :: world.size]]
    total, tokens = 0.0, 0
    with inference(model):
        for rows in by_length([len(sequence) for sequence in sequences], batch):
            part = collate([sequences[i] for i in rows], model.pad_id).to(world.device)
            states = response_states(model, part).split(chunk)
            for chunk_states, targets in zip(states, torch.split(part.targets, chunk), strict=True):
                logp = chunk_states.log_probabilities()
                total -= float(logp.gather(-1, targets[:, None]).double().sum())
                tokens += len(targets)
    total, tokens_all = world.sum([total, tokens])
    return total / tokens_all


def validation_scores(
    model: LanguageModel, tokenizer: object, examples: Items[Example], decoding: Decoding, world: World
) -> dict[str, float]:
    """By example id, the ROUGE-L (0 to 100) of one sampled response, over the examples of all processes."""
    share = examples[world.rank :: world.size]
    responses = generate(model, [Prompt(example.id, example.prompt_ids) for example in share], decoding, purpose="evaluation")
    scores = rouge_l_many(decode_texts(tokenizer, responses), [example.references for example in share])
    return dict(world.gather([(example.id, score) for example, score in zip(share, scores, strict=True)]))
