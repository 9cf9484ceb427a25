"""The main job on its embedded default, through the real command: records in, tables out, and nothing left to do."""

import json
import re
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mgsr.config.specs import EvaluationSpec, read_spec, spec_digest
from mgsr.errors import MgsrError
from mgsr.evaluation.evaluator import answers_spec, parts_of
from mgsr.inspection.compare import compare_text
from mgsr.inspection.results_folder import ResultsFolder, answers_of
from mgsr.inspection.runs import runs_text
from mgsr.inspection.samples import samples_text
from mgsr.storage import read_json, seal_folder
from mgsr.verify import verify
from tests.workflow_support import REPOSITORY, cards, jobs, snakemake, table_1

METHODS = ["Teacher", "SFT", "SFT continued", "KD", "SeqKD", "ImitKD", "GKD", "MiniLLM", "DistiLLM", "MGSR", "MGSR as printed"]
Smoke = tuple[Path, str, float]  # the results, what was printed, the seconds it took
MEANS = [f"{name}_mean" for name in ("dolly", "self_instruct", "vicuna", "sni", "unni")]
SECONDS = 240  # promised for two idle cores


pytestmark = pytest.mark.main_job


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    results = tmp_path_factory.mktemp("results")
    started = time.monotonic()
    finished = snakemake("--config", "preset=smoke", f"results={results}")
    return results, finished.stdout, time.monotonic() - started


def blocks(page: str, heading: str) -> dict[str, str]:
    """The code of a section of a page, by language."""
    section = (REPOSITORY / page).read_text().split(f"\n## {heading}")[1].split("\n## ")[0]
    return dict(re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL))


def write_own_method(folder: Path) -> list[str]:
    """The files of the README's section on one's own method; returns its command."""
    code = blocks("README.md", "Your own method")
    assert set(code) == {"python", "yaml", "bash"}
    for kind in ("python", "yaml"):
        name = code[kind].splitlines()[0].removeprefix("# ")
        (folder / name).write_text(code[kind])
    return code["bash"].split()


def summaries(results: Path) -> dict[str, dict[str, Any]]:
    """Evaluation summaries by method title, and the floor's."""
    root = results / "smoke"
    digests = {row.title: row.evaluation for row in table_1(root).rows} | {"floor": table_1(root).floors["tiny"]}
    return {title: read_json(root / "evaluations" / digest / "summary.json") for title, digest in digests.items()}


def test_it_prints_table_1_within_the_promised_time(smoke: Smoke) -> None:
    _, printed, seconds = smoke
    assert "ranks no methods" in printed
    for method in METHODS:
        assert method in printed
    assert seconds < SECONDS, f"{seconds:.0f} s"


def test_table_1_has_every_method_on_every_set(smoke: Smoke) -> None:
    frame = pd.read_csv(smoke[0] / "smoke/tables/table1.csv")
    for method in METHODS:
        rows = frame[(frame["title"] == method) & (frame["protocol"] == "plain")]
        assert len(rows) == 1, method
        assert rows[MEANS].notna().all(axis=None), method


def test_teacher_stands_above_the_student_and_the_floor(smoke: Smoke) -> None:
    found = summaries(smoke[0])

    def in_domain(name: str) -> float:
        scores = [s["metrics"]["rouge_l"] for s in found[name]["scores"] if (s["set"], s["protocol"]) == ("dolly", "plain")]
        return sum(scores) / len(scores)

    assert in_domain("Teacher") >= 85
    assert in_domain("Teacher") >= in_domain("SFT") + 15
    assert in_domain("Teacher") >= in_domain("floor") + 15


def test_kd_lowers_the_heldout_kl(smoke: Smoke) -> None:
    """Against the control, which has the same start and as many steps."""
    found = summaries(smoke[0])
    assert found["KD"]["heldout"]["forward_kl"] < found["SFT continued"]["heldout"]["forward_kl"]


def test_mlflow_lists_every_run(smoke: Smoke) -> None:
    with sqlite3.connect(smoke[0] / "smoke/mlflow.db") as store:
        listed = {value for (value,) in store.execute("SELECT value FROM tags")}
    assert {row.run for row in table_1(smoke[0] / "smoke").rows} <= listed


def test_the_report_needs_no_network(smoke: Smoke) -> None:
    page = (smoke[0] / "smoke/report.html").read_text()
    assert "MGSR as printed" in page
    assert 'src="http' not in page and 'href="http' not in page


def test_a_second_call_has_nothing_to_do(smoke: Smoke) -> None:
    again = snakemake("--config", "preset=smoke", f"results={smoke[0]}")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_results_are_listed_compared_and_read(smoke: Smoke) -> None:
    root = smoke[0] / "smoke"
    listed = runs_text(root).splitlines()[2:]
    rows = table_1(root).rows
    assert len(listed) >= 2 + len(rows) and all(row.run in "\n".join(listed) for row in rows)
    text = compare_text(root, "mgsr", run_of(root, "KD").name[:8])
    scores = pd.read_csv(root / "tables/table1.csv").set_index(["title", "protocol"])
    difference = scores.loc[("MGSR", "published"), "dolly_mean"] - scores.loc[("KD", "published"), "dolly_mean"]
    assert re.search(rf"^Dolly +{re.escape(f'{difference:+.2f}')} ", text, re.MULTILINE)
    assert len(re.findall(r"^  A .*\n  B ", text, re.MULTILINE)) == 3 * 5
    folder = ResultsFolder.load(root)
    answer = next(answers_of(folder.find("Teacher").runs[0]))
    shown = samples_text(root, answer.record.id, 1, 0)
    assert all(part in shown for part in (answer.record.id, "MGSR as printed", *answer.record.references[0].split()))
    assert samples_text(root, None, 2, 7) == samples_text(root, None, 2, 7) != samples_text(root, None, 2, 8)
    with pytest.raises(MgsrError, match="there is no run 'mgrs'; the nearest valid one is 'mgsr'"):
        folder.find("mgrs")
    with pytest.raises(MgsrError, match="'' is more than one"):
        folder.find("")


# -- somebody else's results: twenty ways to tamper with them -----------------------------------------------------------


def flip(path: Path) -> None:
    """Change a bit in the middle of a file, of a digit in a text."""
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    place = half if path.suffix == ".safetensors" else next(i for i in range(half, len(content)) if 48 <= content[i] <= 57)
    content[place] ^= 1
    path.write_bytes(content)


def change_line(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has no {old}"
    path.write_text(text.replace(old, new, 1))


def drop_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def repeat_line(path: Path) -> None:
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[-1])


def other_answer(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["text"] = "a better answer"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def higher(path: Path) -> None:
    """Rows and summary agree on a score that no answer has."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["scores"]["rouge_l"] = min(100.0, row["scores"]["rouge_l"] + 1)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = read_json(path.with_name("summary.json"))
    for score in summary["scores"]:
        mine = [
            row["scores"]["rouge_l"]
            for row in rows
            if all(row[key] == score[key] for key in ("set", "protocol", "decoding_seed"))
        ]
        score["metrics"]["rouge_l"] = sum(mine) / len(mine)
    path.with_name("summary.json").write_text(json.dumps(summary))


@pytest.fixture
def archive(smoke: Smoke, tmp_path: Path) -> Path:
    return shutil.copytree(smoke[0] / "smoke", tmp_path / "smoke")


def evaluation_of(root: Path, title: str) -> Path:
    return root / "evaluations" / next(row.evaluation for row in table_1(root).rows if row.title == title)


def run_of(root: Path, title: str) -> Path:
    return root / "runs" / next(row.run for row in table_1(root).rows if row.title == title)


def test_an_archive_that_nobody_touched_is_right(archive: Path) -> None:
    assert not any(verify(archive).values())


def test_damage_is_named_file_by_file(archive: Path) -> None:
    answers, other = sorted((archive / "answers").iterdir())[:2]
    shutil.copy(other / "answers.jsonl", answers)  # another part's
    shutil.copy(evaluation_of(archive, "KD") / "rows.jsonl", evaluation_of(archive, "GKD"))
    flip(weights := run_of(archive, "MGSR") / "model/model.safetensors")
    flip(summary := evaluation_of(archive, "SFT") / "summary.json")
    drop_line(rows := evaluation_of(archive, "DistiLLM") / "rows.jsonl")
    repeat_line(more := evaluation_of(archive, "MiniLLM") / "rows.jsonl")
    flip(record := run_of(archive, "KD") / "training.json")
    flip(curve := run_of(archive, "SeqKD") / "metrics.jsonl")
    (gone := run_of(archive, "ImitKD") / "model/tokenizer.json").unlink()
    flip(references := next(archive.glob("test_sets/*/records.jsonl")))
    flip(training := next(archive.glob("data/*/train.jsonl")))
    flip(base := next(archive.glob("models/*/model.safetensors")))
    flip(spec := archive / "specs" / f"{run_of(archive, 'GKD').name}.json")
    flip(heldout := next(archive.glob("heldout/*/heldout.json")))
    wrong = "\n".join(line for lines in verify(archive).values() for line in lines)
    folders = (answers, evaluation_of(archive, "GKD"), references.parent, training.parent, base.parent, heldout.parent)
    for path in (*folders, summary.parent, rows.parent, more.parent, record.parent, curve.parent, weights.parents[1], spec):
        assert str(path) in wrong, path
    assert "model/tokenizer.json is missing" in wrong and gone.parents[1].name in wrong


def test_what_was_edited_and_sealed_again_does_not_follow_from_the_rest(archive: Path) -> None:
    answers = evaluation_of(archive, "SFT continued")
    spec = read_spec(archive, answers.name, EvaluationSpec)
    kept = min(spec_digest(answers_spec(spec, part)) for part in parts_of(spec))
    other_answer(edited := archive / "answers" / kept / "answers.jsonl")
    higher(evaluation_of(archive, "MGSR") / "rows.jsonl")
    for name in ("training.json", "card.json"):
        change_line(run_of(archive, "KD") / name, '"learning_rate": ', '"learning_rate": 1')
    swapped = [run_of(archive, title) / "card.json" for title in ("DistiLLM", "MiniLLM")]
    for path, text in [(swapped[0], swapped[1].read_text()), (swapped[1], swapped[0].read_text())]:
        path.write_text(text)
    for folder in (edited.parent, evaluation_of(archive, "MGSR"), run_of(archive, "KD")):
        seal_folder(folder)
    found = verify(archive)
    scores, cards_ = "\n".join(found["scores made again from answers and references"]), "\n".join(found["cards made again"])
    assert (
        not found["folders beside their checksums"] and answers.name in scores and evaluation_of(archive, "MGSR").name in scores
    )
    assert all(run_of(archive, title).name in cards_ for title in ("KD", "DistiLLM", "MiniLLM"))


def test_a_table_that_was_edited_is_not_what_the_results_say(archive: Path) -> None:
    files = sorted((archive / "tables").glob("table1.*"))
    for file in files:
        flip(file)
    wrong = [line for lines in verify(archive).values() for line in lines]
    assert wrong == [f"{archive}/tables/table1.csv: {file.name} is not what the results say" for file in files]


# Those below add rows to Table 1, so they come last.


def test_a_checkpoint_that_is_never_trained_scores_as_the_run_it_was_taken_from(smoke: Smoke) -> None:
    run = next(row.run for row in table_1(smoke[0] / "smoke").rows if row.title == "KD")
    model = f"{{builder: hub, name: {smoke[0]}/smoke/runs/{run}/model}}"
    row = f"checkpoints={{copy: {{title: a copy of KD, family: tiny, model: {model}}}}}"
    finished = snakemake("table1", "--config", "preset=smoke", f"results={smoke[0]}", row)
    found = summaries(smoke[0])
    assert found["a copy of KD"]["scores"] == found["KD"]["scores"]
    assert found["a copy of KD"]["heldout"] == found["KD"]["heldout"]
    assert jobs(finished) == {
        "build_model": 1, "train_run": 1, "evaluate_run": 1, "write_card": 1, "write_table": 1, "table1": 1, "total": 6,
    }  # fmt: skip


def test_the_readmes_own_method_stands_beside_the_baselines(smoke: Smoke, tmp_path: Path) -> None:
    program, *arguments = write_own_method(tmp_path)
    assert program == "snakemake"
    finished = snakemake(*arguments, f"results={smoke[0]}", folder=tmp_path)
    assert jobs(finished) == {"train_run": 1, "evaluate_run": 1, "write_card": 1, "write_table": 1, "table1": 1, "total": 5}
    frame = pd.read_csv(smoke[0] / "smoke/tables/table1.csv")
    rows = frame[(frame["title"] == "squared Hellinger distance") & (frame["protocol"] == "plain")]
    assert len(rows) == 1 and rows[MEANS].notna().all(axis=None)
    assert set(METHODS) < set(frame["title"])


def test_three_published_methods_are_added_in_the_same_way(smoke: Smoke) -> None:
    rows = "tables={table1: {extra_rows: [taid, akl, abkd]}}"
    snakemake("table1", "--config", "preset=smoke", f"results={smoke[0]}", rows)
    assert {"TAID", "AKL", "ABKD"} < set(pd.read_csv(smoke[0] / "smoke/tables/table1.csv")["title"])


def test_ones_own_test_set_table_and_metric_train_nothing_and_decode_the_new_set_alone(smoke: Smoke, tmp_path: Path) -> None:
    """The overlay of the README, as it stands; the records have a byte-order mark and a blank line."""
    root = smoke[0] / "smoke"
    pets = {"Ada": "cat", "Bob": "dog"}
    lines = [{"instruction": f"Name a pet of {name}.", "output": [f"A {pet}.", pet]} for name, pet in pets.items()]
    (tmp_path / "mine.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    (tmp_path / "own_table.yaml").write_text(blocks("README.md", "Your own test set")["yaml"])
    kept = {path: path.stat().st_mtime_ns for path in (root / "answers").iterdir()}
    given = ("--configfile", "own_table.yaml", "--config", "preset=smoke", f"results={smoke[0]}")
    finished = snakemake("table1", "losses", *given, folder=tmp_path)
    done = jobs(finished)
    assert "train_run" not in done and done["prepare_test_set"] == 1 and done["evaluate_run"] == len(METHODS)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    new = [path for path in (root / "answers").iterdir() if path not in kept]
    assert len(new) == len(METHODS) * 2 * 2 and all(len((path / "answers.jsonl").read_text().splitlines()) == 2 for path in new)
    frame = pd.read_csv(root / "tables/table1.csv").query("protocol == 'plain'")
    by_metric = {metric: part.set_index("title") for metric, part in frame.groupby("metric")}
    assert set(by_metric) == {"rouge_l", "mgsr.examples.word_metrics:exact_match"}
    assert all(part.loc[METHODS, ["mine_mean", "dolly_mean"]].notna().all(axis=None) for part in by_metric.values())
    losses = pd.read_csv(root / "tables/losses.csv").query("protocol == 'plain' and metric == 'rouge_l'").set_index("method")
    assert list(losses.index) == ["kd", "gkd", "mgsr"]
    assert (losses["mine_mean"].to_numpy() == by_metric["rouge_l"].loc[["KD", "GKD", "MGSR"], "mine_mean"].to_numpy()).all()


def test_ones_own_rollout_policy_is_one_file(smoke: Smoke, tmp_path: Path) -> None:
    """The function of docs/own_method.md, as it stands."""
    (tmp_path / "my_policy.py").write_text(blocks("docs/own_method.md", "A rollout policy")["python"])
    sequences = blocks("docs/own_method.md", "A rollout policy")["yaml"].removeprefix("sequences: ").strip()
    objective = "{distillation: {name: reverse_kl}}"
    overlay = f"methods: {{mine: {{title: half and half, sequences: {sequences}, objective: {objective}}}}}\n"
    table = "tables: {policies: {kind: ablation, title: Policies, rows: [gkd, mine], reference: gkd}}\n"
    (tmp_path / "policy.yaml").write_text(overlay + table)
    given = ("--configfile", "policy.yaml", "--config", "preset=smoke", f"results={smoke[0]}")
    finished = snakemake("policies", *given, folder=tmp_path)
    assert jobs(finished)["train_run"] == 1
    table = pd.read_csv(smoke[0] / "smoke/tables/policies.csv").query("protocol == 'plain'").set_index("method")
    assert table.loc[["gkd", "mine"], "average_mean"].notna().all() and table.loc["mine", "average_minus_gkd"] != 0


def test_the_controlled_recipe_in_full(smoke: Smoke) -> None:
    """A grid of learning rates, one of which the main job has trained, and second rows of SFT weight 0."""
    rows = "tables={table1: {rows: [sft, kd, mgsr]}}"
    given = (rows, "rows_without_sft=true", "training={learning_rate: [1.0e-3, 2.0e-3]}")
    finished = snakemake("table1", "--config", "preset=smoke", f"results={smoke[0]}", *given)
    # new rate: kd, mgsr and its twin; both rates: the second rows; a choice for each of these five
    assert jobs(finished)["train_run"] == 3 + 4 + 5
    frame = pd.read_csv(smoke[0] / "smoke/tables/table1.csv").query("protocol == 'plain'").set_index("title")
    assert list(frame.index[:-1]) == ["SFT", "KD", "KD, SFT weight 0", "MGSR", "MGSR, SFT weight 0"]
    for title, card in cards(smoke[0] / "smoke").items():
        if title == "SFT":
            continue
        reached = {each["learning_rate"]: each["validation"]["rouge_l"] for each in card["candidates"]}
        assert sorted(reached) == [1e-3, 2e-3] and card["validation"]["rouge_l"] == max(reached.values())
        assert frame.loc[title, "learning_rate"] == card["learning_rate"]
        assert (card["twin"] is not None) == (title == "MGSR")
