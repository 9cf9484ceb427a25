"""What each policy's steps train on, seen from the trainer."""

import copy
import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mgsr.config.run_specs import TrainSpec
from mgsr.data.encoding import Example
from mgsr.errors import MgsrError
from mgsr.models.language_model import LanguageModel, load_frozen
from mgsr.models.loading import load_model, load_tokenizer
from mgsr.rollouts.sampler import Decoding, Prompt, generate
from mgsr.rollouts.sequence import Sequence
from mgsr.training.distributed import World
from mgsr.training.source import StepSource
from mgsr.training.step import ForwardPass, StepSequences
from mgsr.training.texts import Rollouts
from mgsr.training.trainer import Trainer, train
from tests.runs_support import record_parts, record_steps, recorded
from tests.training_support import DATA, MGSR, SCRG_MIXED, metrics, record_of, run_spec, warnings_of

ALONE = World(0, 1, torch.device("cpu"))
TEACHER = {"policy": "teacher"}
SEQKD = {"sft_weight": 1.0, "distillation": {"name": "cross_entropy"}}
FORWARD = {"sft_weight": 0.0, "distillation": {"name": "forward_kl"}}
DECODING = Decoding(10, 128, seed=10, batch=1)
STEPS = 14  # 24 examples in batches of 4: an epoch is 6 steps


def trainer(root: Path, spec: TrainSpec) -> Trainer:
    return Trainer("watched", spec, root, ALONE)


def steps(source: StepSource, first: int, last: int) -> list[StepSequences]:
    return [source.step(step)[0] for step in range(first, last + 1)]


def teacher_text(root: Path, prompts: list[Prompt]) -> list[tuple[int, ...]]:
    """What the teacher writes to each prompt, one at a time."""
    model, _ = load_frozen(root / "runs/teacher/model", "fp32", torch.device("cpu"))
    return [generate(model, [prompt], DECODING, purpose="teacher_text")[0].response_ids for prompt in prompts]


def targets(parts: list[ForwardPass], weight: str) -> list[int]:
    """The tokens that a term is taken on."""
    return [token for part in parts for token in part.at.targets[getattr(part.at, weight) > 0].tolist()]


# --- the teacher's text -----------------------------------------------------------------------------------------------


def test_pitfall_16_seqkd_trains_on_the_teachers_own_text(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences, micro_batches = record_steps(monkeypatch), record_parts(monkeypatch)
    train("seqkd", run_spec(TEACHER, SEQKD, steps=8), root)
    differs = 0
    for step, parts in zip(sequences, micro_batches, strict=True):
        texts = teacher_text(root, [Prompt(s.example_id, s.prompt_ids) for s in step.distilled])
        assert not any(part.uses_teacher for part in parts)
        assert targets(parts, "token_weight") == [token for text in texts for token in text]
        assert targets(parts, "sft_weight") == [token for sequence in step.truth for token in sequence.response_ids]
        assert {sequence.author for sequence in step.distilled} == {"teacher"}
        differs += sum(text != sequence.response_ids for text, sequence in zip(texts, step.truth, strict=True))
    assert len(sequences) == 8 and differs == 32
    assert record_of(root, "seqkd")["student_step_share"] is None and not warnings_of(root, "seqkd")
    assert {line["teacher_text_gold"] for line in metrics(root, "seqkd")} == {0.0}


def test_seqkds_loss_is_the_mean_negative_log_likelihood_of_that_text(root: Path) -> None:
    train("likelihood", run_spec(TEACHER, SEQKD, steps=1), root)
    (step,) = steps(trainer(root, run_spec(TEACHER, SEQKD)).source, 1, 1)
    model, total, count = load_model(root / "models/student").eval(), 0.0, 0
    for sequence in step.distilled:
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.response_ids]])
        labels = ids.clone()
        labels[:, : len(sequence.prompt_ids)] = -100
        total += float(model(ids, labels=labels).loss.detach()) * len(sequence.response_ids)
        count += len(sequence.response_ids)
    assert metrics(root, "likelihood")[0]["distillation"] == pytest.approx(total / count, rel=1e-4)


def test_pitfall_16_gold_targets_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="set scrg to null"):  # revised text is not the teacher's own
        run_spec({**TEACHER, "scrg": {"passes": 1}}, SEQKD)
    monkeypatch.setattr(Rollouts, "teacher", lambda self, examples, visits: self.dataset(examples))
    with pytest.raises(MgsrError, match="this sequence is by the dataset"):
        train("gold", run_spec(TEACHER, SEQKD), root)


def test_teacher_text_that_is_gold_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(self: Rollouts, model: Any, examples: Any, *_: Any) -> list[Sequence]:
        return [dataclasses.replace(sequence, author="teacher") for sequence in self.dataset(examples)]

    monkeypatch.setattr(Rollouts, "_write", copied)
    train("copied", run_spec(TEACHER, FORWARD, steps=2), root)
    assert warnings_of(root, "copied").keys() == {"teacher_text_is_gold"}


def test_pitfall_21_teacher_text_is_kept_by_example_and_prompt(root: Path) -> None:
    watched = trainer(root, run_spec(TEACHER, FORWARD, steps=STEPS))
    texts: dict[str, set[tuple[int, ...]]] = {}
    order = []
    for step in steps(watched.source, 1, STEPS):
        order += [sequence.example_id for sequence in step.distilled]
        for sequence in step.distilled:
            texts.setdefault(sequence.example_id, set()).add(sequence.response_ids)
    assert order[:24] != order[24:48]  # the walk is shuffled anew each epoch
    assert len(texts) == 24 and all(len(versions) == 1 for versions in texts.values())
    rollouts = watched.source._rollouts
    example = watched.examples[0]
    other = dataclasses.replace(example, prompt_ids=watched.examples[1].prompt_ids)
    (old,), (new,) = rollouts.teacher([example], [0]), rollouts.teacher([other], [0])
    assert new.prompt_ids == other.prompt_ids and new.response_ids != old.response_ids
    assert [new.response_ids] == teacher_text(root, [Prompt(other.id, other.prompt_ids)])


@pytest.mark.parametrize("world", [ALONE, World(1, 2, torch.device("cpu"))], ids=["alone", "one of two"])
def test_resumed_the_teacher_writes_in_the_same_batches(root: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """In bf16 another batch would give another text."""
    batches = recorded(monkeypatch, Rollouts, "_write", lambda arguments, _: tuple(example.id for example in arguments[2]))
    monkeypatch.setattr(World, "gather", lambda self, items: items)  # the other process is not there
    monkeypatch.setattr(World, "sum", lambda self, values: list(values))
    spec = run_spec(TEACHER, FORWARD, steps=STEPS, data_config=DATA.model_copy(update={"train_rows": 22}))
    run = trainer(root, spec)
    sources = [StepSource(spec, run.models, run.examples, STEPS, world, run.clock, with_spans=False) for _ in range(2)]
    whole = steps(sources[0], 1, STEPS)
    first = set(batches)
    batches.clear()
    resumed = steps(sources[1], 8, STEPS)
    assert resumed == whole[7:]
    assert len(batches) == len(set(batches)) and len(batches) > 1
    if world.size == 1:
        assert set(batches) <= first and len(first) == 6  # 22 examples in batches of 4


def test_scrg_revises_the_teachers_text_afresh_at_each_visit(root: Path) -> None:
    watched = trainer(root, run_spec({**TEACHER, "scrg": {"passes": 1}}, MGSR, steps=12))
    first, second = ({s.example_id: s for step in steps(watched.source, at, at + 5) for s in step.distilled} for at in (1, 7))
    assert first.keys() == second.keys() and first != second
    written_by = {name: sequence for (name, _), sequence in watched.source._rollouts._teacher_text.items()}
    revised = {name for name, sequence in first.items() if sequence.author == "student"}
    assert all(first[name] == written_by[name] for name in first.keys() - revised)
    assert all(first[name].response_ids != written_by[name].response_ids for name in revised)
    assert len(revised) > 12 and watched.source.student_share == 1.0


# --- the student's --------------------------------------------------------------------------------------------------


def test_pitfall_17_imitkd_trains_on_fresh_text_of_the_current_weights(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after = recorded(monkeypatch, Trainer, "_optimise", lambda given, _: copy.deepcopy(given[0].student.state_dict()))
    sequences, micro_batches = record_steps(monkeypatch), record_parts(monkeypatch)
    train("imitkd", run_spec({"policy": "student"}, FORWARD, steps=8, learning_rate=5e-2), root)
    model = load_model(root / "models/student")
    student = LanguageModel.of(model, load_tokenizer(root / "models/student"))
    before, stale = [copy.deepcopy(model.state_dict()), *after[:-1]], 0  # weights, step by step
    for step, (weights, drawn, parts) in enumerate(zip(before, sequences, micro_batches, strict=True)):
        prompts = [Prompt(sequence.example_id, sequence.prompt_ids, visit=step // 6) for sequence in drawn.distilled]
        for state in (weights, before[max(0, step - 1)]):
            model.load_state_dict(state)
            texts = generate(student, prompts, dataclasses.replace(DECODING, batch=4), purpose="rollout")
            same = targets(parts, "token_weight") == [token for text in texts for token in text.response_ids]
            assert same or state is not weights
            stale += not same
    assert len(before) == 8 and stale >= 5
    assert record_of(root, "imitkd")["student_step_share"] == 1.0
    assert {line["source"] for line in metrics(root, "imitkd")} == {"student"}


def test_a_method_may_have_its_own_rollout_length(root: Path) -> None:
    for limit, longest in ((None, 10), (4, 4)):
        watched = trainer(root, run_spec({"policy": "student", "max_new_tokens": limit}, FORWARD))
        lengths = [len(s.response_ids) for step in steps(watched.source, 1, 6) for s in step.distilled]
        assert max(lengths) == longest


# --- the data set's batches of a mixture ------------------------------------------------------------------------------


def test_dataset_batches_may_count_the_sft_term_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = recorded(monkeypatch, Trainer, "_optimise", lambda given, _: copy.deepcopy(given[0].objective.state_dict()))
    train("sft-only", run_spec({**SCRG_MIXED, "dataset_terms": "sft"}, MGSR), root)
    lines = metrics(root, "sft-only")
    by_source = {source: [line for line in lines if line["source"] == source] for source in ("dataset", "student")}
    assert all(by_source.values())
    moved = [any(not torch.equal(one[name], other[name]) for name in one) for one, other in pairwise(networks)]
    assert moved == [line["source"] == "student" for line in lines[1:]] and moved != sorted(moved)
    for line in by_source["dataset"]:
        assert line["loss"] == line["sft"]
        assert not {"distillation", "span", "band/collapsed", "clip_network_gradient_norm"} & line.keys()
    assert all({"distillation", "span", "clip_network_gradient_norm"} <= line.keys() for line in by_source["student"])
    train("all-terms", run_spec(SCRG_MIXED, MGSR), root)
    first = next(line for line in metrics(root, "all-terms") if line["source"] == "dataset")
    assert first["loss"] > first["sft"] and first["distillation"] > 0


# --- the user's own -----------------------------------------------------------------------------------------------------

Policy = Callable[..., Any]  # of rollouts, examples, visits, step and steps


def mostly_teacher(rollouts: Rollouts, examples: list[Example], visits: list[int], *, step: int, steps: int) -> list[Sequence]:
    """The teacher's text for even ids, the student's for odd ones; the second half of the run is revised."""
    even = [int(example.id.rsplit("-", 1)[1]) % 2 == 0 for example in examples]
    written = {True: rollouts.teacher(examples, visits), False: rollouts.student(examples, visits)}
    chosen = [written[choice][i] for i, choice in enumerate(even)]
    return rollouts.revise(chosen, visits) if step > steps / 2 else chosen


def of_dataset(change: Callable[[list[Sequence]], Any]) -> Policy:
    return lambda rollouts, examples, visits, **_: change(rollouts.dataset(examples))


dataset = of_dataset(lambda sequences: sequences)
too_few = of_dataset(lambda sequences: sequences[1:])
swapped = of_dataset(lambda sequences: sequences[::-1])
too_long = of_dataset(lambda sequences: [dataclasses.replace(s, response_ids=s.response_ids * 99) for s in sequences])
text = of_dataset(lambda sequences: "text")


def custom(name: str, **changes: Any) -> dict[str, Any]:
    return {"policy": "custom", "function": f"{__name__}:{name}", **changes}


def test_a_policy_of_ones_own(root: Path) -> None:
    train("own", run_spec(custom("mostly_teacher", scrg={"passes": 1}), MGSR), root)
    watched = trainer(root, run_spec(custom("mostly_teacher", scrg={"passes": 1}), MGSR))
    for sequence in (sequence for step in steps(watched.source, 1, 4) for sequence in step.distilled):
        assert sequence.author == ("teacher" if int(sequence.example_id.rsplit("-", 1)[1]) % 2 == 0 else "student")
    lines = metrics(root, "own")
    assert {line["source"] for line in lines} == {"custom"}
    assert [bool(line["scrg_hits"]) for line in lines] == [False] * 4 + [True] * 4
    assert record_of(root, "own")["student_step_share"] > 0.5


def test_a_policy_of_ones_own_may_use_no_student_text(root: Path) -> None:
    """Nobody said that it should, so there is no share of it and no warning."""
    train("none", run_spec(custom("dataset"), FORWARD, steps=2), root)
    assert record_of(root, "none")["student_step_share"] is None and not warnings_of(root, "none")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_few", "gave 3 sequences for 4 examples"),
        ("swapped", "gave no response to the prompt of example"),
        ("too_long", r"gave \d+ tokens for example .*; prompt and response may have data.max_length 128"),
        ("text", "must give a list of mgsr.rollouts.sequence.Sequence; it gave str"),
        ("mostly_teacher", "sequences.scrg is null, so nothing says how to revise"),
    ],
)
def test_a_policy_that_answers_wrongly_is_told(root: Path, name: str, message: str) -> None:
    with pytest.raises(MgsrError, match=rf"run wrong, step \d: .*{message}"):
        train("wrong", run_spec(custom(name), MGSR, steps=2), root)


def test_what_needs_a_teacher_says_so(root: Path) -> None:
    for sequences in (TEACHER, {"policy": "student", "scrg": {"passes": 1}}):
        with pytest.raises(MgsrError, match="need a teacher; this run has none"):
            train("lonely", run_spec(sequences, {"sft_weight": 1.0}, teacher_run=None), root)
