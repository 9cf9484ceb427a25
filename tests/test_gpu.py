"""What a GPU computes, compared with the CPU: `pytest -m gpu`. The same checks run on the CPU in tests/test_doctor.py."""

from __future__ import annotations

import pytest
import torch

from mgsr.devices import default_device
from mgsr.doctor import CHECKS, Bench

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), default_device())


@pytest.mark.parametrize("name", CHECKS)
def test_the_gpu_passes(bench: Bench, name: str) -> None:
    assert CHECKS[name].find(bench)
