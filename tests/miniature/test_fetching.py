"""From the real names and layouts of the hub to records and model folders; each fault of the hub is told with its remedy."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceProcessor
from tokenizers import ByteLevelBPETokenizer

from mgsr.data.builtin_records import load_builtin
from mgsr.data.encoding import starts_with_bos
from mgsr.data.prompts import format_prompt
from mgsr.errors import MgsrError
from mgsr.models.hub_model import fetch_model
from mgsr.models.loading import load_model, load_tokenizer
from tests.miniature.data_repositories import TRAINING_ROWS, UNNI_ROWS
from tests.miniature.hub_server import Files, Hub
from tests.miniature.jobs import LOCK, run
from tests.miniature.model_repositories import OTHER_FRAMEWORKS, REPOSITORIES, reference_model
from tests.miniature.stand_in import commit_of
from tests.miniature.tokenizer_files import OPT_PADDING, SIZE, open_llama_files

DOLLY = "datasets/MiniLLM/dolly"
IDS = torch.randint(0, SIZE, (2, 9), generator=torch.Generator().manual_seed(1))


def files_of(hub: Hub, repository: str) -> Files:
    return list(hub.repositories[repository].values())[-1]


def publish(hub: Hub, repository: str, files: Files) -> None:
    """A further commit."""
    hub.repositories[repository][commit_of(files)] = files


def test_the_records_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    """Dolly has no train.jsonl: the first 1,000 rows of raw.jsonl validate and the rest trains; valid.jsonl is the test set."""
    environment = hub.environment(tmp_path / "hf")
    assert run(tmp_path, environment, "data") == {}
    data = json.loads((tmp_path / "data.json").read_text())
    sizes = {"train": TRAINING_ROWS, "validation": 1000, "dolly": 200, "self_instruct": 120, "vicuna": 80, "sni": 120}
    assert {name: len(raw["records"]) for name, raw in data.items()} == {**sizes, "unni": 10_000}
    rows = [json.loads(line)["instruction"] for line in files_of(hub, DOLLY)["raw.jsonl"].splitlines()]
    assert rows == [record["instruction"] for name in ("validation", "train") for record in data[name]["records"]]
    ids = [record["id"] for name in ("validation", "train", "dolly") for record in data[name]["records"]]
    assert len(set(ids)) == len(ids)
    assert all(data[name]["published_split"] for name in ("train", "validation"))
    assert {name: raw["rule"] for name, raw in data.items() if raw["rule"] != "all rows"} == {
        "train": f"rows 1,001 to {1000 + TRAINING_ROWS:,} of raw (--dev-num 1000 of MiniLLM's processing)",
        "validation": "the first 1,000 rows of raw (--dev-num 1000 of MiniLLM's processing)",
        "unni": f"the first 10,000 of {UNNI_ROWS:,} rows, as in the papers",
    }
    assert not any(path.endswith((".txt", ".md")) or "0_2/" in path for path in hub.paths)

    locked = (tmp_path / LOCK).read_bytes()
    publish(hub, DOLLY, {**files_of(hub, DOLLY), "raw.jsonl": files_of(hub, DOLLY)["valid.jsonl"]})
    assert run(tmp_path, environment, "data") == {}
    assert json.loads((tmp_path / "data.json").read_text()) == data and (tmp_path / LOCK).read_bytes() == locked
    (tmp_path / LOCK).unlink()
    message = run(tmp_path, environment, "data")["data"]
    assert message == "hub MiniLLM/dolly: raw has 200 rows; more than 1000 are needed to split it"


def test_faults_of_the_network_are_told_apart(hub: Hub, tmp_path: Path) -> None:
    environment = hub.environment(tmp_path / "hf")
    hub.gated.add(DOLLY)
    for token in ("", "hf_of_somebody_else"):
        message = run(tmp_path, {**environment, "HF_TOKEN": token}, "data")["data"]
        assert f"MiniLLM/dolly is gated: accept its licence at {hub.url}/{DOLLY}, then run `hf auth login`" in message
    (tmp_path / LOCK).unlink()
    assert "HF_HUB_OFFLINE is set" in run(tmp_path, {**environment, "HF_HUB_OFFLINE": "1"}, "data")["data"]
    assert "could not be reached" in run(tmp_path, {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}, "data")["data"]
    assert not (tmp_path / LOCK).exists()
    files = files_of(hub, DOLLY)
    del files["raw.jsonl"]
    assert (
        "expected one raw.jsonl/.parquet, found 0 among README.md, raw.txt, valid.jsonl"
        in run(tmp_path, environment, "data")["data"]
    )


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_fetched_model_is_the_one_on_the_hub(model_folders: dict[str, Path], name: str) -> None:
    folder = model_folders[name]
    model = load_model(folder)
    assert [type(model).__name__] == REPOSITORIES[name].config["architectures"]
    assert torch.equal(model(input_ids=IDS).logits, reference_model(name)(input_ids=IDS).logits)
    files = {file.name for file in folder.iterdir()}
    assert not any(file.endswith((".bin", *OTHER_FRAMEWORKS)) for file in files)
    assert not {"generation_config.json", "README.md"} & files
    assert ("LICENSE.txt" in files) is name.startswith("meta-llama/")
    card = json.loads((folder / "model_card.json").read_text())
    assert card["converted"] is name.startswith(("openlm-research/", "facebook/")) and len(card["revision"]) == 40


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


def test_a_repository_with_a_fault_is_named_with_its_remedy(hub: Hub, tmp_path: Path) -> None:
    """Each repository has a fault of its own. Before a tokenizer loads, no weights are fetched."""
    llama2, open_llama, missing, pickled, cut = (
        "meta-llama/Llama-2-7b-hf",
        "openlm-research/open_llama_7b_v2",
        "openlm-research/open_llama_3b_v2",
        "facebook/opt-1.3b",
        "openai-community/gpt2",
    )
    publish(hub, f"models/{open_llama}", {**files_of(hub, f"models/{open_llama}"), **open_llama_files("nmt_nfkc")})
    del files_of(hub, f"models/{missing}")["tokenizer.model"]
    torch.save({"weight": Path("x")}, code := io.BytesIO())
    publish(hub, f"models/{pickled}", {**files_of(hub, f"models/{pickled}"), "pytorch_model.bin": code.getvalue()})
    hub.cut.add("model.safetensors")
    names = (llama2, open_llama, missing, pickled, cut, "no/such")
    environment = hub.environment(tmp_path / "hf") | {"HF_TOKEN": ""}
    messages = run(tmp_path, environment, "models", *names)
    assert f"model {llama2} is gated: accept its licence at {hub.url}/{llama2}" in messages[llama2]
    assert "differ from sentencepiece's own on 6 of 8 texts" in messages[open_llama]
    assert (
        "sentencepiece goes on with '▁ ▁### ▁Instruction :', transformers with '<0x0A> <0x0A> ### ▁Instruction'"
        in messages[open_llama]
    )
    assert f"model {missing} has no tokenizer; it needs one of tokenizer.json, tokenizer.model" in messages[missing]
    assert "pytorch_model.bin holds more than weights" in messages[pickled]
    assert f"model {cut}: a file did not arrive whole" in messages[cut] and "model.safetensors" in messages[cut]
    assert "model no/such does not exist" in messages["no/such"]
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models").glob("*/*"))
    assert not any("pytorch_model-" in path for path in hub.paths)

    hub.cut.clear()
    hub.paths.clear()
    publish(hub, f"models/{llama2}", {**files_of(hub, f"models/{llama2}"), "modeling_evil.py": b"raise SystemExit"})
    (tmp_path / LOCK).unlink()
    assert run(tmp_path, hub.environment(tmp_path / "hf"), "models", cut, llama2) == {}
    fetched = {path.rpartition("/")[2] for path in hub.paths if path.startswith("GET /") and "/api/models/" not in path}
    assert {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "LICENSE.txt"} <= fetched
    assert not any(file.endswith((".bin", ".py", *OTHER_FRAMEWORKS)) for file in fetched)


def test_without_sentencepiece_the_remedy_is_told(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['sentencepiece'] = None\n")
    environment = hub.environment(tmp_path / "hf") | {"PYTHONPATH": str(tmp_path)}
    name = "openlm-research/open_llama_3b_v2"
    assert "pip install sentencepiece" in run(tmp_path, environment, "models", name)[name]


def test_a_local_folder_is_a_model_too(model_folders: dict[str, Path], tmp_path: Path) -> None:
    source = model_folders["facebook/opt-1.3b"]
    fetch_model(str(source), tmp_path / "copy", None)
    weights = tmp_path / "copy" / "model.safetensors"
    assert weights.read_bytes() == (source / "model.safetensors").read_bytes() and weights.stat().st_nlink == 1
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(MgsrError, match=r"model\.safetensors is broken .*; delete .*model\.safetensors and fetch it again"):
        fetch_model(str(tmp_path / "copy"), tmp_path / "again", None)


def test_pickles_leave_the_cache_once_converted(hub: Hub, tmp_path: Path) -> None:
    """Those that were there before stay: another project may have fetched them. A shard takes no space twice either way."""
    opt, llama = "facebook/opt-1.3b", "meta-llama/Llama-2-7b-hf"

    def cached(kind: str) -> list[Path]:
        return sorted(file for file in (tmp_path / "hf").rglob(f"*{kind}") if "snapshots" in file.parts)

    environment = hub.environment(tmp_path / "hf")
    assert run(tmp_path, environment, "models", opt, llama) == {}
    assert not cached(".bin") and len(cached(".safetensors")) == 2
    blobs = sum(file.stat().st_size for file in (tmp_path / "hf").rglob("*") if file.is_file() and not file.is_symlink())
    weights = sum(file.stat().st_size for file in (tmp_path / "models" / llama).glob("*.safetensors"))
    assert weights < blobs < weights + (tmp_path / "models" / opt / "model.safetensors").stat().st_size
    fetch = "from huggingface_hub import snapshot_download; import sys; snapshot_download(sys.argv[1])"
    subprocess.run([sys.executable, "-c", fetch, opt], env={**os.environ, **environment}, check=True)
    (tmp_path / "models" / opt / "config.json").unlink()
    assert cached(".bin") and run(tmp_path, environment, "models", opt) == {} and cached(".bin")
