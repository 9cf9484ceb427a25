"""Files survive kills, full disks and damage; values have one spelling."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgsr import storage
from mgsr.errors import MgsrError


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_value_has_one_spelling_and_no_number_that_is_none(tmp_path: Path) -> None:
    assert storage.canonical_json({"b": 1, "a": [1.5, None, "é"]}) == '{"a":[1.5,null,"é"],"b":1}'
    assert storage.digest({"a": 1, "b": 2}) == storage.digest({"b": 2, "a": 1}) != storage.digest({"a": 1, "b": 3})
    with pytest.raises(ValueError, match="Out of range"):
        storage.canonical_json(float("nan"))
    with pytest.raises(ValueError, match="Out of range"):
        storage.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert storage.file_digest(tmp_path / "x").startswith("ba7816bf8f01cfea")


def test_write_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.json"
    storage.write_json(path, {"text": "é\r\n"})
    assert storage.read_json(path) == json.loads(path.read_text(encoding="utf-8")) == {"text": "é\r\n"}
    assert path.read_bytes().endswith(b"}\n")
    storage.write_jsonl(path, [{"a": 1}, {"b": "line\u2028end"}])
    assert read_jsonl(path) == [{"a": 1}, {"b": "line\u2028end"}]
    assert names(path.parent) == ["x.json"]


def read_jsonl(path: Path) -> list[Any]:
    return list(storage.read_jsonl(path))


@pytest.mark.parametrize(("owner", "step"), [(storage, "_sync"), (os, "replace"), (Path, "write_text")])
def test_a_full_disk_leaves_what_was_there(owner: Any, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    storage.write_json(path, 1)
    monkeypatch.setattr(owner, step, full_disk)
    told = r"x.json could not be written \(No space left on device\); what was there is unchanged"
    with pytest.raises(MgsrError, match=told):
        storage.write_json(path, 2)
    monkeypatch.undo()
    assert storage.read_json(path) == 1 and names(tmp_path) == ["x.json"]


KILLED = """
import os, signal
from pathlib import Path
from mgsr import storage
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
os.replace = os.rename = die
path = Path({path!r})
{action}
"""


def kill_before_rename(path: Path, action: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED.format(path=str(path), action=action)], cwd=Path(__file__).parents[1])
    assert done.returncode == -signal.SIGKILL


def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    storage.write_json(path, "old")
    kill_before_rename(path, "storage.write_json(path, 'new')")
    assert storage.read_json(path) == "old"
    storage.write_json(path, "newer")
    assert storage.read_json(path) == "newer"


def test_a_kill_leaves_no_half_folder_and_the_next_attempt_clears_up(tmp_path: Path) -> None:
    path = tmp_path / "run"
    kill_before_rename(path, "with storage.new_folder(path) as new: (new / 'stale').write_text('half')")
    assert not path.exists()
    with storage.new_folder(path) as new:
        (new / "sub").mkdir()
        (new / "sub" / "card.json").write_text("{}")
    files = [str(file.relative_to(path)) for file in sorted(path.rglob("*"))]
    assert names(tmp_path) == ["run"] and files == ["checksums.json", "seal.json", "sub", "sub/card.json"]


def test_a_folder_whose_making_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    with storage.new_folder(path) as new:
        (new / "x").write_text("old")
    with pytest.raises(RuntimeError), storage.new_folder(path) as new:
        raise RuntimeError
    monkeypatch.setattr(storage, "_sync", full_disk)
    with pytest.raises(MgsrError, match="run could not be written"), storage.new_folder(path) as new:
        (new / "x").write_text("new")
    assert names(tmp_path) == ["run"] and (path / "x").read_text() == "old"


def fill(path: Path, text: str) -> None:
    with storage.new_folder(path) as new:
        (new / "x").write_text(text)
        with storage.new_folder(new / "inner") as inner:
            (inner / "y").write_text(text)


def test_a_folder_with_other_contents_is_replaced_in_one_step_and_an_equal_one_stays(tmp_path: Path) -> None:
    fill(path := tmp_path / "run", "old")
    place = path.stat().st_ino
    fill(path, "old")
    assert path.stat().st_ino == place
    fill(path, "new")
    assert path.stat().st_ino != place and (path / "x").read_text() == "new" and names(tmp_path) == ["run"]


WRITER = """
import sys
from pathlib import Path
from mgsr.storage import new_folder
for number in range(40):
    with new_folder(Path(sys.argv[1])) as new:
        (new / "x").write_text(sys.argv[2] or str(number))
        (new / "y").write_text(sys.argv[2] or str(number))
"""


@pytest.mark.parametrize("texts", [("", "other"), ("same", "same")])
def test_two_writers_of_one_folder_lose_nothing(tmp_path: Path, texts: tuple[str, str]) -> None:
    """A reader finds a whole folder, of either writer, at every moment; both writers succeed."""
    path = tmp_path / "run"
    fill(path, "first")
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, text], cwd=Path(__file__).parents[1]) for text in texts]
    while any(writer.poll() is None for writer in writers):
        assert path.is_dir()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert (path / "x").read_text() == (path / "y").read_text() != "first"
    storage.check_folder(path)
    assert names(tmp_path) == ["run"]


def edit(file: Path) -> None:
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])


@pytest.mark.parametrize(
    ("name", "spoil", "problem"),
    [
        ("x", edit, "x has other contents"),
        ("x", Path.unlink, "x is missing"),
        ("inner/y", edit, "inner/y has other contents"),
        ("inner/checksums.json", edit, "inner/checksums.json has other contents"),
        ("checksums.json", edit, "checksums.json cannot be read"),
        ("checksums.json", Path.unlink, "checksums.json cannot be read"),
    ],
)
def test_a_damaged_folder_is_named_and_is_no_finished_one(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], problem: str
) -> None:
    fill(path := tmp_path / "run", "text")
    storage.check_folder(path)
    spoil(path / name)
    with pytest.raises(MgsrError, match=f"run is damaged: .*{problem}.*; delete the folder and start the workflow again"):
        storage.check_folder(path)
    assert not storage.is_sealed(path)


def test_a_seal_that_alone_is_missing_is_written_again(tmp_path: Path) -> None:
    fill(path := tmp_path / "run", "text")
    seal = (path / "seal.json").read_bytes()
    (path / "seal.json").unlink()
    assert storage.is_sealed(path) and (path / "seal.json").read_bytes() == seal
    assert not storage.is_sealed(tmp_path / "none")


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for read in (storage.read_json, read_jsonl):
        with pytest.raises(MgsrError, match=r"x.json does not exist"):
            read(path)
    path.write_text('{"a": ')
    with pytest.raises(MgsrError, match=r"x.json: not valid JSON"):
        storage.read_json(path)
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(MgsrError, match=r"x.json, line 2: not valid JSON"):
        read_jsonl(path)
    path.write_bytes(b'{"a": "\xff"}\n')
    for read in (storage.read_json, read_jsonl):
        with pytest.raises(MgsrError, match=r"x.json: not UTF-8"):
            read(path)


def test_a_mark_and_blank_lines_of_other_programs_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf1\r\n\r\n  \n2\n\n")
    assert list(storage.numbered_jsonl(path)) == [(1, 1), (4, 2)] and read_jsonl(path) == [1, 2]


def test_a_lock_has_one_holder_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    code = f"""
from pathlib import Path
from mgsr.storage import file_lock
with file_lock(Path({str(path)!r})):
    print("held", flush=True)
    input()
"""
    command, folder = [sys.executable, "-c", code], Path(__file__).parents[1]
    holder = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with storage.file_lock(path, wait=False) as held:
        assert not held
    holder.kill()
    with storage.file_lock(path) as held, storage.file_lock(path, wait=False) as again:
        assert held and not again
    holder.communicate()
