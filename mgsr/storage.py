"""Files that survive a kill: written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
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


# -- folders -----------------------------------------------------------------------------------------------------------

CHECKSUMS = "checksums.json"  # of a folder: SHA-256 by file
SEAL = "seal.json"  # says that the folder is whole. Snakemake deletes it before a job, and nothing else of the folder


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears whole or not at all, with its checksums and its seal: fill the yielded temporary one.

    A folder that stands there already is replaced in one step, unless it has the same contents. What a dead process of this
    host has left beside it goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = path.with_name(f"{_prefix(path)}{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir()
        yield temporary
        seal_folder(temporary)
        for file in sorted(temporary.rglob("*")):
            _sync(file)
        before_publishing()
        _publish(temporary, path)
    except OSError as error:
        raise MgsrError(f"{path} could not be written ({error.strerror or error}); what was there is unchanged") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(path.parent)


def _prefix(path: Path) -> str:
    """How the names of folders begin that processes of this host are about to rename to `path`; their ids follow."""
    return f".{path.name}.{socket.gethostname()}."


def _sweep(path: Path) -> None:
    """Delete such folders of processes that are dead."""
    for left in path.parent.glob(f"{glob.escape(_prefix(path))}*"):
        process = left.name.removeprefix(_prefix(path)).partition(".")[0]
        if process.isdigit() and not _lives(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _publish(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`; what stood there is at `temporary` afterwards, unless it was the same."""
    while True:
        try:
            os.rename(temporary, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if _same(temporary, path):
            return
        with suppress(FileNotFoundError):  # another process has just moved it away
            _exchange(temporary, path)
            return


def _same(one: Path, other: Path) -> bool:
    try:
        return (one / CHECKSUMS).read_bytes() == (other / CHECKSUMS).read_bytes() and is_sealed(other)
    except OSError:
        return False


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step where the system can, else in two."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename is None or rename(here, os.fsencode(one), here, os.fsencode(other), exchange):
        if rename is not None and ctypes.get_errno() == errno.ENOENT:
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(other))
        away = one.with_name(f"{one.name}.old")
        os.rename(other, away)
        os.rename(one, other)
        os.rename(away, one)


def seal_folder(folder: Path) -> None:
    """Write checksums of a folder's files, and its seal. A folder within it that has its own counts by its checksums."""
    own = (folder / CHECKSUMS, folder / SEAL)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file not in own)
    sealed = {file.parent for file in files if file.name == CHECKSUMS}
    kept = [file for file in files if file.name == CHECKSUMS or not sealed.intersection(file.parents)]
    checksums = {str(file.relative_to(folder)): file_digest(file) for file in kept}
    (folder / CHECKSUMS).write_text(json.dumps(checksums, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _write_seal(folder)


def _write_seal(folder: Path) -> None:
    (folder / SEAL).write_text(json.dumps({"checksums": file_digest(folder / CHECKSUMS)}) + "\n", encoding="utf-8")


def damages(folder: Path, *names: str) -> list[str]:
    """What is not as it was written, in words, of all files or of `names`. The seal itself does not count."""
    try:
        checksums = read_json(folder / CHECKSUMS)
        wrong = [f"{name} has no checksum" for name in names if name not in checksums]
        for name, known in checksums.items():
            if names and name not in names:
                continue
            file = folder / name
            if not file.is_file():
                wrong.append(f"{name} is missing")
            elif file_digest(file) != known:
                wrong.append(f"{name} has other contents")
            elif file.name == CHECKSUMS:
                wrong += [f"{file.parent.relative_to(folder)}/{damage}" for damage in damages(file.parent)]
    except (MgsrError, OSError, AttributeError) as error:
        return [f"{CHECKSUMS} cannot be read ({error})"]
    return wrong


def is_sealed(folder: Path) -> bool:
    """Whether the folder is whole. Its seal is written again if that alone is missing."""
    if not (folder / CHECKSUMS).is_file() or damages(folder):
        return False
    if not (folder / SEAL).is_file():
        _write_seal(folder)
    return True


def check_folder(folder: Path, *names: str) -> None:
    """Raise MgsrError where a file of the folder is not as it was written; of `names` alone, where some are given."""
    if not folder.is_dir():
        raise MgsrError(f"{folder} does not exist")
    if wrong := damages(folder, *names):
        raise MgsrError(f"{folder} is damaged: {'; '.join(wrong)}; delete the folder and start the workflow again")
