"""From the real names and layouts of the hub to records and model folders; each fault of the hub is told with its remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceProcessor
from tokenizers import ByteLevelBPETokenizer

from mgsr.data.builtin_records import load_builtin
from mgsr.data.examples import starts_with_bos
from mgsr.data.prompts import format_prompt
from mgsr.models.loading import load_model, load_tokenizer
from tests.miniature.data_repositories import TRAINING_ROWS, UNNI_ROWS
from tests.miniature.hub_server import TOKEN, Hub
from tests.miniature.jobs import run
from tests.miniature.model_repositories import OTHER_FRAMEWORKS, REPOSITORIES, reference_model
from tests.miniature.stand_in import commit_of
from tests.miniature.tokenizer_files import OPT_PADDING, SIZE, open_llama_files

LLAMA2, OPEN_LLAMA2 = "meta-llama/Llama-2-7b-hf", "openlm-research/open_llama_3b_v2"
IDS = torch.randint(0, SIZE, (2, 9), generator=torch.Generator().manual_seed(1))


def test_dolly_is_split_by_minillms_rule(hub: Hub, tmp_path: Path) -> None:
    """There is no train.jsonl: the first 1,000 rows of raw.jsonl validate and the rest trains; valid.jsonl is the test set."""
    assert run(tmp_path, hub.environment(tmp_path / "hf"), "data") == ""
    data = json.loads((tmp_path / "data.json").read_text())
    sizes = {"train": TRAINING_ROWS, "validation": 1000, "dolly": 200, "self_instruct": 120, "vicuna": 80, "sni": 120}
    assert {name: len(raw["records"]) for name, raw in data.items()} == {**sizes, "unni": 10_000}
    files = next(iter(hub.repositories["datasets/MiniLLM/dolly"].values()))
    rows = [json.loads(line) for line in files["raw.jsonl"].decode().splitlines()]
    told = [record["instruction"] for name in ("validation", "train") for record in data[name]["records"]]
    assert told == [row["instruction"] for row in rows]
    ids = [record["id"] for name in ("validation", "train", "dolly") for record in data[name]["records"]]
    assert len(set(ids)) == len(ids)
    assert all(data[name]["published_split"] for name in ("train", "validation", "dolly"))
    assert not any("GET /datasets/MiniLLM" in path and path.endswith((".txt", ".md")) for path in hub.paths)


def test_the_rule_of_each_set_is_told(hub: Hub, tmp_path: Path) -> None:
    run(tmp_path, hub.environment(tmp_path / "hf"), "data")
    data = json.loads((tmp_path / "data.json").read_text())
    rules = {name: raw["rule"] for name, raw in data.items() if raw["rule"] != "all rows"}
    assert rules == {
        "train": f"rows 1,001 to {1000 + TRAINING_ROWS:,} of raw.jsonl (--dev-num 1000 of MiniLLM's processing)",
        "validation": "the first 1,000 rows of raw.jsonl (--dev-num 1000 of MiniLLM's processing)",
        "unni": f"the first 10,000 of {UNNI_ROWS:,} rows, as in the papers",
    }


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_fetched_model_is_the_one_on_the_hub(model_folders: dict[str, Path], name: str) -> None:
    folder = model_folders[name]
    model = load_model(folder)
    assert [type(model).__name__] == REPOSITORIES[name].config["architectures"]
    assert torch.equal(model(input_ids=IDS).logits, reference_model(name)(input_ids=IDS).logits)
    files = {file.name for file in folder.iterdir()}
    assert not any(file.endswith((".bin", ".md")) for file in files - {"USE_POLICY.md"})
    assert "generation_config.json" not in files and not files & set(OTHER_FRAMEWORKS)


def test_only_what_is_needed_is_fetched(hub: Hub, tmp_path: Path) -> None:
    assert run(tmp_path, hub.environment(tmp_path / "hf"), "models", LLAMA2) == ""
    fetched = {path.rpartition("/")[2] for path in hub.paths if path.startswith("GET /") and "/api/models/" not in path}
    assert not any(file.endswith((".bin", *OTHER_FRAMEWORKS)) for file in fetched)
    assert {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "LICENSE.txt"} <= fetched


def test_the_tokenizer_comes_before_the_weights(hub: Hub, tmp_path: Path) -> None:
    """Hours of download are not spent on a family whose tokenizer does not load."""
    commits = hub.repositories[f"models/{OPEN_LLAMA2}"]
    del next(iter(commits.values()))["tokenizer.model"]
    message = run(tmp_path, hub.environment(tmp_path / "hf"), "models", OPEN_LLAMA2)
    assert f"model {OPEN_LLAMA2}" in message and "no tokenizer that loads" in message
    assert not any("pytorch_model" in path for path in hub.paths)


@pytest.mark.parametrize("name", REPOSITORIES)
def test_token_ids_are_those_of_the_tokenizer_s_own_library(model_folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    files = REPOSITORIES[name].tokenizer()
    texts = [format_prompt(record) for record in load_builtin()["sni"].records] + ["12 + 3\tis\n\n  é 漢", "x"]
    tokenizer = load_tokenizer(model_folders[name])
    if model := files.get("tokenizer.model"):
        expected, first = SentencePieceProcessor(model_proto=model).encode(texts), "<s>"
    else:
        for file in ("vocab.json", "merges.txt"):
            (tmp_path / file).write_bytes(files[file])
        backend = ByteLevelBPETokenizer.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
        expected = [backend.encode(text).ids for text in texts]
        first = "</s>" if name.startswith("facebook/") else None
    assert tokenizer(texts, add_special_tokens=False)["input_ids"] == expected
    assert starts_with_bos(tokenizer) is (first is not None) and first in (None, tokenizer.bos_token)
    assert [tokenizer.decode(ids) for ids in expected] == texts
    assert len(tokenizer) == SIZE - (OPT_PADDING if first == "</s>" else 0)


def test_a_tokenizer_that_differs_from_sentencepiece_is_an_error(hub: Hub, tmp_path: Path) -> None:
    """transformers leaves the model's own normalisation out."""
    files = next(iter(hub.repositories[f"models/{OPEN_LLAMA2}"].values()))
    files |= open_llama_files("nmt_nfkc")
    hub.repositories[f"models/{OPEN_LLAMA2}"] = {commit_of(files): files}
    message = run(tmp_path, hub.environment(tmp_path / "hf"), "models", OPEN_LLAMA2)
    assert "differ from sentencepiece's own on 2 of 3 texts" in message and "'A\\n\\nB'" in message


def test_without_sentencepiece_the_remedy_is_told(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['sentencepiece'] = None\n")
    environment = hub.environment(tmp_path / "hf") | {"PYTHONPATH": str(tmp_path)}
    message = run(tmp_path, environment, "models", OPEN_LLAMA2)
    assert "pip install sentencepiece" in message and "tiktoken" not in message


def test_faults_of_the_hub_are_told_apart(hub: Hub, tmp_path: Path) -> None:
    environment = hub.environment(tmp_path / "hf")
    for token in ("", "hf_of_somebody_else"):
        message = run(tmp_path, {**environment, "HF_TOKEN": token}, "models", LLAMA2)
        assert f"model {LLAMA2} is gated: accept its licence at {hub.url}/{LLAMA2}" in message, token
    assert environment["HF_TOKEN"] == TOKEN
    assert "model no/such does not exist" in run(tmp_path, environment, "models", "no/such")
    assert "could not be reached" in run(tmp_path, {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}, "models", OPEN_LLAMA2)
    hub.cut.add("pytorch_model.bin")
    message = run(tmp_path, environment, "models", OPEN_LLAMA2)
    assert "pytorch_model.bin arrived incomplete" in message and "repeat" in message
    hub.cut.clear()
    assert run(tmp_path, environment, "models", OPEN_LLAMA2) == ""
