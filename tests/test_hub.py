"""Fetching, through the hub's real client, from a local stand-in of its HTTP interface. Each look runs in a process of its
own, as the client reads its settings at import."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from mgsr.models.loading import load_model, load_tokenizer, save_model
from tests.test_models_loading import IDS, TOKENIZER, random_model

ROW = {"instruction": "Say hi.", "input": "", "output": ["hi", "hello"]}


class Hub:
    """repositories: {"models/owner/name": {commit: {path: bytes}}}, the last commit is `main`."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.split("?")[0]
        api = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not api and not file:
            return self.send(request, 404)
        kind = api[1] if api else ("datasets" if file and file[1] else "models")
        name = f"{kind}/{api[2] if api else file[2]}"  # type: ignore[index]
        if name in self.gated:
            return self.send(request, 403, {"X-Error-Code": "GatedRepo"})
        if name not in self.repositories:
            return self.send(request, 404, {"X-Error-Code": "RepoNotFound"})
        commits = self.repositories[name]
        revision = (api[4] if api else file[3]) or "main"  # type: ignore[index]
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return self.send(request, 404, {"X-Error-Code": "RevisionNotFound"})
        files = commits[commit]
        if api and api[3] == "tree":
            rows = [{"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()} for p, b in files.items()]
            return self.send(request, 200, body=json.dumps(rows).encode())
        if api:
            info = {"id": api[2], "sha": commit, "siblings": [{"rfilename": path} for path in files], "tags": []}
            return self.send(request, 200, body=json.dumps(info).encode())
        content = files[file[4]]  # type: ignore[index]
        tag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
        self.send(request, 200, tag, content)

    def send(
        self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        request.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    stand_in = Hub()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()


def look(tmp_path: Path, url: str, code: str, **extra: str) -> str:
    """Run code in a new process; returns what it printed, or the MgsrError's message."""
    program = (
        "from pathlib import Path\nfrom mgsr.errors import MgsrError\nlock, out = Path('hub.lock.json'), Path('out')\n"
        f"try:\n    {code}\nexcept MgsrError as error:\n    print('MgsrError:', error)"
    )
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, **settings, "PYTHONPATH": root, "HF_HUB_DISABLE_TELEMETRY": "1", **extra}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


FETCH = "from mgsr.models.hub_model import fetch_model; fetch_model('{}', out, lock)"
DATA = (
    "from mgsr.data.hub_records import fetch_hub; d = fetch_hub(lock)\n"
    "    print([(k, len(s.records), s.revision[:2]) for k, s in d.items()])"
)


def folder_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_first_fetch_locks_and_the_second_stays_there(hub: Hub, tmp_path: Path) -> None:
    old, new = "a" * 40, "b" * 40
    line = json.dumps(ROW).encode() + b"\n"
    names = {"self-inst": "valid.jsonl", "Vicuna": "valid.jsonl", "sinst": "11_/valid.jsonl", "uinst": "11_/valid.jsonl"}
    dolly = {"raw.jsonl": line * 1001, "valid.jsonl": line}
    content = {"dolly": dolly, **{name: {file: line} for name, file in names.items()}}
    for name, files in content.items():
        hub.repositories[f"datasets/MiniLLM/{name}"] = {old: files}
    first = look(tmp_path, hub.url, DATA)
    assert "('train', 1, 'aa'), ('validation', 1000, 'aa'), ('dolly', 1, 'aa')" in first and "('unni', 1, 'aa')" in first, first
    lock = json.loads((tmp_path / "hub.lock.json").read_text())
    assert lock == {"datasets": {f"MiniLLM/{name}": old for name in sorted(content)}, "models": {}}
    for name, files in content.items():
        hub.repositories[f"datasets/MiniLLM/{name}"][new] = {file: text * 2 for file, text in files.items()}
    assert look(tmp_path, hub.url, DATA) == first
    assert json.loads((tmp_path / "hub.lock.json").read_text()) == lock
    (tmp_path / "hub.lock.json").unlink()
    assert "('train', 1002, 'bb')" in look(tmp_path, hub.url, DATA)
    (tmp_path / "hub.lock.json").unlink()
    hub.repositories["datasets/MiniLLM/dolly"] = {"c" * 40: {"raw.jsonl": line * 1000, "valid.jsonl": line}}
    assert "raw.jsonl has 1000 rows; more than 1000 are needed" in look(tmp_path, hub.url, DATA)
    (tmp_path / "hub.lock.json").unlink()
    hub.repositories["datasets/MiniLLM/dolly"] = {"d" * 40: {"train.jsonl": line, "odd.csv": b""}}
    assert "has no raw.jsonl; it has odd.csv, train.jsonl. Download it by hand" in look(tmp_path, hub.url, DATA)


def test_pickled_weights_are_converted_once(hub: Hub, tmp_path: Path) -> None:
    model = random_model("opt")
    save_model(model, TOKENIZER, tmp_path / "source")
    content = folder_files(tmp_path / "source")
    del content["model.safetensors"]
    torch.save(model.half().state_dict(), tmp_path / "pytorch_model.bin")
    content |= {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes(), "modeling_evil.py": b"raise"}
    hub.repositories["models/owner/opt"] = {"d" * 40: content}
    assert look(tmp_path, hub.url, FETCH.format("owner/opt")) == ""
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in names and not {"pytorch_model.bin", "modeling_evil.py"} & names
    card = json.loads((tmp_path / "out" / "model_card.json").read_text())
    assert card["converted"] and card["revision"] == "d" * 40
    fetched = load_model(tmp_path / "out")
    assert torch.equal(fetched(input_ids=IDS).logits, model.float().eval()(input_ids=IDS).logits)
    assert load_tokenizer(tmp_path / "out").get_vocab() == TOKENIZER.get_vocab()


def test_a_pickle_with_code_is_refused(hub: Hub, tmp_path: Path) -> None:
    torch.save({"weight": Path("x")}, tmp_path / "pytorch_model.bin")
    content = {"config.json": b"{}", "pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()}
    hub.repositories["models/owner/evil"] = {"e" * 40: content}
    assert "holds more than weights" in look(tmp_path, hub.url, FETCH.format("owner/evil"))
    assert not (tmp_path / "out").exists()


def test_gated_missing_offline_and_unreachable_are_told_apart(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("models/meta/llama")
    assert "model meta/llama is gated: accept its licence at" in look(tmp_path, hub.url, FETCH.format("meta/llama"))
    assert "model no/such does not exist" in look(tmp_path, hub.url, FETCH.format("no/such"))
    assert "HF_HUB_OFFLINE is set" in look(tmp_path, hub.url, FETCH.format("no/such"), HF_HUB_OFFLINE="1")
    assert "could not be reached" in look(tmp_path, "http://127.0.0.1:9", FETCH.format("no/such"))
    assert not (tmp_path / "hub.lock.json").exists()


def test_a_local_folder_is_a_model_too(tmp_path: Path) -> None:
    save_model(random_model("llama"), TOKENIZER, tmp_path / "mine")
    assert look(tmp_path, "http://127.0.0.1:9", FETCH.format("mine")) == ""
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "mine" / weights).read_bytes()
    assert (tmp_path / "out" / weights).stat().st_nlink == 1
    assert "lacks" not in look(tmp_path, "http://127.0.0.1:9", FETCH.format("mine"))
