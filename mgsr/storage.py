"""Files that survive a kill: written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mgsr.errors import MgsrError


def nothing_to_check() -> None:
    """What `before_publishing` is outside of a job."""


before_publishing: Callable[[], None] = nothing_to_check  # raises MgsrError where a result must not be kept


def canonical_json(value: Any) -> str:
    """JSON with one spelling per value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Sixteen hex digits that identify a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def link_folder(source: Path, target: Path) -> None:
    """The same files under another folder, which take no space; copies where the file system has no such links. Finished files
    are replaced and never written into, so neither name can spoil the other."""

    def link(file: str, to: str) -> None:
        try:
            os.link(file, to)
        except OSError:
            shutil.copy(file, to)

    shutil.copytree(source, target, copy_function=link)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a file by `text`, or leave it as it was."""
    before_publishing()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        _sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MgsrError(f"{path} could not be written ({error.strerror}); what was there is unchanged") from error
    _sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is an error that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MgsrError(f"{path} does not exist") from None
    except json.JSONDecodeError as error:
        raise MgsrError(f"{path}: not valid JSON ({error})") from None
    except UnicodeDecodeError as error:
        raise MgsrError(f"{path}: not UTF-8 ({error.reason}); convert it") from None


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def numbered_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number and object of each line of a JSONL file, in order. A byte order mark and blank lines are passed over; a
    malformed line is an error with file and line number."""
    try:
        file = path.open(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MgsrError(f"{path} does not exist") from None
    with file:
        try:
            for number, line in enumerate(file, 1):
                if line.isspace():
                    continue
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    raise MgsrError(f"{path}, line {number}: not valid JSON ({error.msg}); mend or remove it") from None
        except UnicodeDecodeError as error:
            raise MgsrError(f"{path}: not UTF-8 ({error.reason}); convert it") from None


def read_jsonl(path: Path) -> Iterator[Any]:
    """The objects of a JSONL file, in order; a malformed line is an error with file and line number."""
    return (value for _, value in numbered_jsonl(path))


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on the file `path`, made if absent, until the block ends or the process dies.

    Yields whether it is held: always with `wait`, which waits for another holder; without, False where there is one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears whole or not at all: fill the yielded temporary one, it is renamed at the end."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in sorted(temporary.rglob("*")):
            _sync(file)
        before_publishing()
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    except OSError as error:
        raise MgsrError(f"{path} could not be written ({error.strerror or error}); nothing was kept") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(path.parent)
