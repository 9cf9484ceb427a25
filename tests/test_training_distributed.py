"""Several processes train as one."""

from pathlib import Path

import pytest
import torch

from mgsr.errors import MgsrError
from mgsr.storage import read_json
from mgsr.training import run as run_module
from mgsr.training.distributed import World
from mgsr.training.run import train
from tests.training_support import DISTILLM, MGSR, SCRG_MIXED, call_train, make_root, metrics, run_spec


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("results"))


def test_pitfall_19_26_two_processes_train_as_one(root: Path) -> None:
    """With fresh, corrected, replayed and dataset sequences; the replay buffer is one for both processes."""
    spec = run_spec({**DISTILLM, "scrg": SCRG_MIXED["scrg"]}, MGSR, steps=16, micro_batch=1, processes=2)
    train("alone", spec.model_copy(update={"processes": 1}), root)
    finished = call_train(root, "pair", spec)
    assert finished.returncode == 0, finished.stderr[-3000:]
    for kind in ("train", "validation"):
        alone, pair = metrics(root, "alone", kind), metrics(root, "pair", kind)
        assert [line.get("source") for line in pair] == [line.get("source") for line in alone]
        for figure in alone[-1].keys() - {"source", "kind"}:
            values = [[line[figure] for line in lines if figure in line] for lines in (pair, alone)]
            assert values[0] == pytest.approx(values[1], rel=2e-3, abs=1e-5), figure
    assert {line["source"] for line in metrics(root, "pair")} == {"dataset", "student", "buffer"}
    assert read_json(root / "runs/pair/card.json")["processes"] == 2


def test_a_global_batch_that_cannot_be_shared_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "start_world", lambda: World(0, 3, torch.device("cpu")))
    with pytest.raises(MgsrError, match="global_batch: 4 sequences cannot be shared by 3 processes; choose a multiple of 3"):
        train("odd", run_spec(), root)
