import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from mgsr.config.policy import ScrgConfig
from mgsr.errors import MgsrError
from mgsr.rollouts.noise import exponential_noise, key_tensor, row_key
from mgsr.rollouts.sampler import Prompt
from mgsr.rollouts.scrg import ScrgStats, detection_scores, revise
from mgsr.rollouts.sequence import Sequence
from tests.rollouts_support import EOS, PLAIN, VOCABULARY, greedy, language_model, parts, prompts, reference, sample, tiny

VISIT = 2
SHORT = dataclasses.replace(PLAIN, max_new_tokens=4)


def run(student, teacher, sequences, passes=1, decoding=PLAIN, chunk=16, visit=VISIT, **readings):
    visits = [visit] * len(sequences)
    return revise(student, teacher, sequences, visits, ScrgConfig(passes=passes, **readings), decoding, chunk=chunk)


def rollouts(student, count=16, decoding=PLAIN):
    return sample(student, prompts(count), decoding, visit=VISIT)


@torch.no_grad()
def distributions(model, sequence):
    """log p(. | prompt, y_<i) as lists, one forward pass for each position: no masks, no index arithmetic."""
    rows = []
    for i in range(len(sequence.response_ids)):
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.response_ids[:i]]])
        state = model.backbone(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, -1]
        rows.append(model.head(state)[:VOCABULARY].double().log_softmax(-1).tolist())
    return rows


def teacher_tokens(teacher_rows, sequence, pass_):
    key = key_tensor([row_key(PLAIN.seed, "teacher_token", VISIT, pass_, sequence.example_id)])
    tokens = []
    for i, row in enumerate(teacher_rows):
        noise = exponential_noise(key, torch.tensor([i]), VOCABULARY)[0].tolist()
        tokens.append(max(range(VOCABULARY), key=lambda v: row[v] - math.log(noise[v])))
    return tokens


def divergences(student_rows, teacher_rows):
    """KL(s || t) of each position."""
    pairs = (zip(s, t, strict=True) for s, t in zip(student_rows, teacher_rows, strict=True))
    return [sum(math.exp(a) * (a - b) for a, b in pair) for pair in pairs]


def score_of(s, t, y, score="kl", direction="student_teacher", **_):
    """The detection score of one position, from the lists of log-probabilities."""
    if score == "kl":
        return divergences([s], [t])[0] if direction == "student_teacher" else divergences([t], [s])[0]
    return -t[y] if score == "teacher_nll" else s[y] - t[y]


def oracle(student, teacher, sequence, passes, decoding=PLAIN, teacher_token="sample", suffix_writer="student", **readings):
    """The method by its definition, one sequence at a time, in Python numbers."""
    corrected, history = [], []
    for pass_ in range(1, passes + 1):
        s, t = distributions(student, sequence), distributions(teacher, sequence)
        c = teacher_tokens(t, sequence, pass_) if teacher_token == "sample" else [row.index(max(row)) for row in t]
        scores = [score_of(*position, **readings) for position in zip(s, t, sequence.response_ids, strict=True)]
        candidates = [i for i, y in enumerate(sequence.response_ids) if y != c[i] and i not in corrected]
        if not candidates:
            history.append(None)
            continue
        j = max(candidates, key=lambda i: scores[i])
        history.append(j)
        corrected = [i for i in corrected if i < j] + [j]
        prefix = (*sequence.response_ids[:j], c[j])
        prompt = Prompt(sequence.example_id, sequence.prompt_ids, prefix, VISIT)
        writer = student if suffix_writer == "student" else teacher
        sequence = reference(writer, prompt, decoding, pass_, author=suffix_writer)
    return sequence, history


@pytest.fixture(scope="module")
def student():
    return parts("llama", seed=0)


@pytest.fixture(scope="module")
def teacher():
    return parts("llama", seed=1)


class Planted(nn.Module):
    """The student, but at one place of the text it holds something else for likely."""

    def __init__(self, backbone, place):
        super().__init__()
        self.backbone, self.place = backbone, place

    def forward(self, *args, **kwargs):
        output = self.backbone(*args, **kwargs)
        output.last_hidden_state[:, self.place : self.place + 1] *= -1
        return output


def assert_is_the_method(student, teacher, sequences, passes, decoding=PLAIN, **readings):
    """Texts and positions are those of the definition; gives both, the positions by sequence."""
    revised, stats = run(student, teacher, sequences, passes, decoding, **readings)
    expected, histories = zip(*(oracle(student, teacher, s, passes, decoding, **readings) for s in sequences), strict=True)
    assert revised == list(expected)
    assert [list(row) for row in zip(*stats.positions, strict=True)] == list(histories)
    return revised, histories


@pytest.mark.parametrize("passes", [1, 3])
def test_revision_equals_the_text_of_the_method(student, teacher, passes):
    _, histories = assert_is_the_method(student, teacher, rollouts(student, 6), passes)
    assert all(history[0] is not None for history in histories)


READINGS = [
    {"direction": "teacher_student"},
    {"score": "teacher_nll"},
    {"score": "log_ratio"},
    {"teacher_token": "greedy"},
    {"suffix_writer": "teacher"},
    {"score": "log_ratio", "teacher_token": "greedy", "suffix_writer": "teacher"},
]


@pytest.mark.parametrize("readings", READINGS, ids=lambda readings: "-".join(readings.values()))
def test_every_reading_equals_the_text_of_the_method(student, teacher, readings):
    sequences = rollouts(student, 6)
    revised, _ = assert_is_the_method(student, teacher, sequences, 2, **readings)
    assert revised != run(student, teacher, sequences, 2)[0]
    assert {sequence.author for sequence in revised} == {readings.get("suffix_writer", "student")}


def test_a_sequence_whose_scores_are_all_negative_is_corrected_too(student):
    """Where the teacher is surer of each token than the student: the log ratio is below 0, and there is no threshold."""
    sharp = dataclasses.replace(student, head=copy.deepcopy(student.head))
    sharp.head.weight.data *= 3
    sequences = greedy(student, prompts(16))
    for sequence in sequences:
        positions = zip(distributions(student, sequence), distributions(sharp, sequence), sequence.response_ids, strict=True)
        assert all(score_of(s, t, y, "log_ratio") < 0 for s, t, y in positions)
    assert run(student, sharp, sequences, score="log_ratio")[1].hits


@pytest.mark.parametrize("score", ["kl", "teacher_nll", "log_ratio"])
def test_the_printed_score_depends_on_the_prefix_alone(student, teacher, score):
    """So it cannot single out the token that stands at the error position itself; the other two can."""
    (sequence,) = rollouts(student, 1)
    ids = list(sequence.response_ids)
    k = len(ids) // 2
    ids[k] = (ids[k] + 1) % VOCABULARY
    other = dataclasses.replace(sequence, response_ids=tuple(ids))
    at_k, later = [], []
    for text in (sequence, other):
        s, t = (torch.tensor(distributions(model, text)) for model in (student, teacher))
        scores = detection_scores(s, t, torch.tensor(text.response_ids), ScrgConfig(score=score))
        at_k.append(float(scores[k]))
        later.append(scores[k + 1 :].tolist())
    assert (at_k[0] == at_k[1]) == (score == "kl")
    assert later[0] != later[1]


def test_a_correction_that_was_cut_off_no_longer_stands(student, teacher):
    sequences = rollouts(student, decoding=SHORT)  # so that positions come up again
    _, histories = assert_is_the_method(student, teacher, sequences, 5, SHORT)
    histories = [[j for j in history if j is not None] for history in histories]
    assert any(len(set(history)) < len(history) for history in histories)


@pytest.mark.parametrize("k", [0, 3, 7])
def test_a_planted_divergence_is_found_and_corrected_once(k):
    student = parts(seed=0)
    prompt = (5, 6, 7)
    items = [Prompt(f"p{i}", prompt) for i in range(30)]
    sequences = [s for s in sample(student, items, visit=VISIT) if len(s.response_ids) > k]
    planted = dataclasses.replace(student, backbone=Planted(student.backbone, len(prompt) + k - 1))
    _, stats = run(student, planted, sequences, passes=2)
    differs = [teacher_tokens(distributions(planted, s), s, 1)[k] != s.response_ids[k] for s in sequences]
    hits = [j == k for j in stats.positions[0]]
    assert hits == differs and sum(hits) > len(hits) / 2
    # its correction stands, so the second pass looks elsewhere, although the models still differ there most
    assert all(second != k for hit, second in zip(hits, stats.positions[1], strict=True) if hit)
    for sequence, new, hit in zip(sequences, run(student, planted, sequences)[0], hits, strict=True):
        if hit:
            assert new.response_ids[:k] == sequence.response_ids[:k]
            assert new.response_ids[k] != sequence.response_ids[k]


def test_neither_batch_nor_chunk_nor_order_matters(student, teacher):
    sequences = rollouts(student)
    expected, stats = run(student, teacher, sequences, passes=2)
    for batch, chunk in ((1, 7), (16, 1000)):
        decoding = dataclasses.replace(PLAIN, batch=batch)
        assert run(student, teacher, sequences, 2, decoding, chunk) == (expected, stats)
    assert run(student, teacher, sequences[::-1], passes=2)[0] == expected[::-1]
    assert run(student, teacher, sequences, passes=2, visit=VISIT + 1)[0] != expected


def constant(student, token):
    """A teacher that always writes the same token."""
    head = nn.Linear(32, VOCABULARY)
    head.weight.data.zero_()
    head.bias.data.zero_()[token] = 60.0
    return dataclasses.replace(student, head=head)


def test_a_teachers_end_of_sequence_ends_the_sequence(student):
    sequences = rollouts(student)
    revised, stats = run(student, constant(student, EOS), sequences)
    assert any(j is not None for j in stats.positions[0])
    for old, new, j in zip(sequences, revised, stats.positions[0], strict=True):
        if j is None:
            assert old == new and set(old.response_ids) == {EOS}
        else:
            assert new.response_ids == (*old.response_ids[:j], EOS) and new.finished


def test_a_students_end_of_sequence_is_a_response_position_too(student):
    """Only the last token, the student's end-of-sequence, differs from the teacher's: it is corrected, the text goes on."""
    sequences = [Sequence(f"e{i}", (5, 6, 7), (9, 9, EOS), True) for i in range(5)]
    revised, stats = run(student, constant(student, 9), sequences)
    assert stats.positions == ((2,) * 5,)
    assert all(s.response_ids[:3] == (9, 9, 9) and len(s.response_ids) > 3 for s in revised)


def test_without_a_candidate_the_sequence_is_kept():
    model = tiny()
    sharp = copy.deepcopy(model)
    sharp.lm_head.weight.data *= 1e4  # its sample is the student's greedy choice
    sequences = greedy(language_model(model), prompts(6))
    revised, stats = run(language_model(model), language_model(sharp), sequences, passes=2)
    assert revised == sequences
    lengths = tuple(len(sequence.response_ids) for sequence in sequences)
    assert stats == ScrgStats(((None,) * 6,) * 2, (lengths,) * 2) and stats.hits == []


def test_teacher_draws_are_independent_of_the_rollouts(student):
    """Shared numbers would make a teacher equal to the student agree everywhere."""
    sequences = rollouts(student)
    agree, expected, count = 0, 0.0, 0
    for sequence in sequences:
        rows = distributions(student, sequence)
        tokens = teacher_tokens(rows, sequence, 1)
        agree += sum(a == b for a, b in zip(tokens, sequence.response_ids, strict=True))
        expected += sum(math.exp(row[y]) for row, y in zip(rows, sequence.response_ids, strict=True))
        count += len(tokens)
    assert abs(agree - expected) < 5 * math.sqrt(count) / 2
    assert len(run(student, student, sequences)[1].hits) > len(sequences) / 2


def test_modes_are_restored_and_nothing_has_a_gradient():
    model, other = tiny("gpt2", seed=0), tiny("gpt2", seed=1)
    sequences = rollouts(language_model(model))
    expected = run(language_model(model), language_model(other), sequences)
    model.train()
    assert run(language_model(model), language_model(other), sequences) == expected
    assert all(module.training for module in model.modules()) and not any(module.training for module in other.modules())
    assert torch.is_grad_enabled()


def test_diverged_teacher_is_named(student):
    bad = tiny(seed=1)
    bad.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(MgsrError, match=r"example row-\d+, response position \d+: SCRG's detection score 'kl' is not finite"):
        run(student, language_model(bad), rollouts(student))
