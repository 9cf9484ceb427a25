import pytest
import torch

from mgsr.data.encoding import Example
from mgsr.rollouts.sequence import Sequence, by_length, collate
from tests.rollouts_support import EOS, PAD, parts

SEQUENCES = [
    Sequence("a", (5, 6, 7), (8, 9, EOS), True),
    Sequence("b", (10,), (EOS,), True),
    Sequence("c", (11, 12), (13, EOS, 14, 15, 16, 17), False),  # an id that equals padding, inside a response
]


def token_losses(model, batch, index):
    states = model.backbone(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state.flatten(0, 1)
    return torch.nn.functional.cross_entropy(model.head(states[index]), batch.targets, reduction="none")


def one_by_one(model, sequence):
    """Sum over response tokens of -log q(token | all before), by a loop without padding or index arithmetic."""
    losses = []
    for i, token in enumerate(sequence.response_ids):
        before = torch.tensor([[*sequence.prompt_ids, *sequence.response_ids[:i]]])
        state = model.backbone(before, attention_mask=torch.ones_like(before)).last_hidden_state[0, -1]
        losses.append(-model.head(state).log_softmax(-1)[token])
    return torch.stack(losses)


def test_collate_places_tokens():
    batch = collate(SEQUENCES, PAD)
    assert batch.input_ids.shape == (3, 8)
    assert batch.attention_mask.sum(-1).tolist() == [6, 2, 8]
    assert batch.targets.tolist() == [8, 9, EOS, EOS, 13, EOS, 14, 15, 16, 17]
    assert batch.hidden_index.tolist() == [2, 3, 4, 8, 17, 18, 19, 20, 21, 22]
    assert batch.row.tolist() == [0] * 3 + [1] + [2] * 6
    assert batch.position.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4, 5]
    assert torch.equal(batch.input_ids.flatten()[batch.hidden_index + 1], batch.targets)
    assert batch.to("cpu").targets.tolist() == batch.targets.tolist()


@torch.no_grad()
def test_pitfall_01_one_label_shift_for_dataset_and_student_sequences():
    model = parts()
    batch = collate(SEQUENCES, PAD)
    right = token_losses(model, batch, batch.hidden_index)
    expected = torch.cat([one_by_one(model, sequence) for sequence in SEQUENCES])
    torch.testing.assert_close(right, expected, rtol=1e-4, atol=1e-5)
    shifted = token_losses(model, batch, (batch.hidden_index + 1).clamp(max=batch.input_ids.numel() - 1))
    assert (shifted - expected).abs().min() > 1e-3

    # ground truth and generated text take the same way: Sequence is all that collate sees
    for sequence in SEQUENCES:
        example = Example(sequence.example_id, sequence.prompt_ids, sequence.response_ids, (), "")
        assert Sequence.from_example(example, EOS) == sequence


def test_pitfall_02_end_of_sequence_counts_where_it_was_generated_and_padding_never():
    batch = collate(SEQUENCES, pad_id=EOS)
    assert batch.targets.tolist().count(EOS) == 3
    for row, sequence in enumerate(SEQUENCES):
        assert (batch.row == row).sum() == len(sequence.response_ids)


@torch.no_grad()
def test_pitfall_03_padding_changes_nothing():
    model = parts()
    batch = collate(SEQUENCES, PAD)
    losses = token_losses(model, batch, batch.hidden_index)
    for pad_id in (0, 39):
        other = collate(SEQUENCES, pad_id)
        assert torch.equal(token_losses(model, other, other.hidden_index), losses)
    for row, sequence in enumerate(SEQUENCES):
        alone = collate([sequence], PAD)
        own = token_losses(model, alone, alone.hidden_index)
        torch.testing.assert_close(own, losses[batch.row == row], rtol=1e-4, atol=1e-5)


def test_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="without prompt"):
        collate([Sequence("a", (), (1,), False)], PAD)


def test_groups_by_length_hold_every_index_once():
    groups = list(by_length([3, 9, 3, 5, 9], 2))
    assert groups == [[1, 4], [3, 0], [2]]
    assert list(by_length([], 2)) == []
