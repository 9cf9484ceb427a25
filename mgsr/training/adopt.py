"""A run that trains nothing: a released checkpoint, or a user's own, stands in a trained model's place and is scored alike."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from mgsr.config.run_specs import AdoptSpec
from mgsr.config.specs import read_spec
from mgsr.errors import MgsrError
from mgsr.models.loading import check_shared_vocabulary, load_tokenizer, parameter_count
from mgsr.storage import link_folder, new_folder, read_json, write_json, write_jsonl
from mgsr.training.run_record import RECORD, make_record


def adopt(root: Path, run: str) -> None:
    """Write `runs/<run>` below `root` from the model `spec.base_model`, with a record of the same fields as a trained run's.

    What training alone knows is null or empty there. Its files are links. Raises MgsrError where the checkpoint does not
    share the vocabulary of the family's teacher: its held-out KL, and what it is compared with, would mean nothing.
    """
    spec = read_spec(root, run, AdoptSpec)
    started = time.perf_counter()
    torch.set_num_threads(spec.threads)
    folder = root / "models" / spec.base_model
    tokenizer = load_tokenizer(folder)
    try:
        check_shared_vocabulary(load_tokenizer(root / "runs" / spec.teacher_run / "model"), tokenizer)
    except MgsrError as error:
        raise MgsrError(f"{spec.title} of family {spec.family}: {error}") from error
    with new_folder(root / "runs" / run) as out:
        link_folder(folder, out / "model")
        record = make_record(
            run,
            spec,
            data_digest=read_json(root / "data" / spec.data / "manifest.json")["digest"],
            dropped={},
            train_rows=None,
            steps=None,
            threads=torch.get_num_threads(),
            processes=1,
            device="cpu",
            parameters=parameter_count(folder),
            timings={"total": round(time.perf_counter() - started, 3)},
            learning_rate=None,
            best_step=None,
            validation={"step": None, "loss": None, "rouge_l": None},
            validation_scores={},
            student_step_share=None,
            peak_memory_bytes=None,
            examples_per_second=None,
            warnings=[],
        )
        write_json(out / "spec.json", spec.model_dump(mode="json"))
        write_jsonl(out / "metrics.jsonl", [])
        write_json(out / RECORD, record)
