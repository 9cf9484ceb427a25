"""The Hugging Face hub, at fixed revisions: names are resolved to commit ids once, into a lock file, and read from it after.

Only the stages prepare-data, prepare-test-set and build-model import the hub's client; every other step runs without network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mgsr.errors import MgsrError
from mgsr.storage import file_lock, read_json, write_json

Kind = Literal["dataset", "model"]


@dataclass(frozen=True)
class Repository:
    """A repository at a commit, with the paths of its files."""

    kind: Kind
    name: str
    revision: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} at {self.revision[:12]}"


def lock_path(root: Path) -> Path:
    """The lock file of a preset's results folder: one for all presets of the same `results`."""
    return root.parent / "hub.lock.json"


def read_lock(path: Path) -> dict[str, dict[str, str]]:
    """{"datasets": {name: commit}, "models": {name: commit}}; empty where there is no lock file yet."""
    content = read_json(path) if path.exists() else {}
    lock = {section: content.get(section, {}) for section in ("datasets", "models")} if isinstance(content, dict) else {}
    if lock.keys() != (content or lock).keys() or not all(isinstance(names, dict) for names in lock.values()):
        raise MgsrError(
            f"{path}: not a lock file (names to commits under datasets and models); delete it and run the workflow again"
        )
    return lock


def resolve(kind: Kind, name: str, lock_path: Path) -> Repository:
    """The repository at its locked commit; at the first call, at the newest one, which is then locked."""
    from huggingface_hub import HfApi

    locked = read_lock(lock_path)[f"{kind}s"].get(name)
    with hub_errors(kind, name):
        info: Any = HfApi().repo_info(name, repo_type=kind, revision=locked)
    revision = locked or _add(lock_path, kind, name, str(info.sha))
    if info.sha != revision:  # another process locked a different commit between our two looks
        return resolve(kind, name, lock_path)
    return Repository(kind, name, revision, tuple(sorted(file.rfilename for file in info.siblings or ())))


def accessible_files(kind: Kind, name: str) -> tuple[str, ...]:
    """Paths of a repository's files. Raises MgsrError where they could not be fetched: gated, missing, no network."""
    from huggingface_hub import HfApi

    with hub_errors(kind, name):
        HfApi().auth_check(name, repo_type=kind)
        return tuple(HfApi().list_repo_files(name, repo_type=kind))


def lock_names(lock_path: Path, datasets: Iterable[str] = (), models: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """Resolve what the lock file does not hold yet; local folders among `models` are passed over. Returns the lock."""
    wanted: list[tuple[Kind, str]] = [("dataset", name) for name in datasets]
    wanted += [("model", name) for name in models if not Path(name).expanduser().is_dir()]
    for kind, name in wanted:
        resolve(kind, name, lock_path)
    return read_lock(lock_path)


def download(repository: Repository, files: Iterable[str]) -> Path:
    """Fetch files (or find them in the hub's cache); returns the folder that holds them under their paths."""
    from huggingface_hub import snapshot_download

    with hub_errors(repository.kind, repository.name):
        folder = snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=repository.revision,
            allow_patterns=list(files),
        )
    return Path(folder)


def _add(path: Path, kind: Kind, name: str, revision: str) -> str:
    """Lock a name unless another process just did; returns the commit that stands in the file."""
    with file_lock(path.with_name(f".{path.name}.guard")):
        lock = read_lock(path)
        revision = lock[f"{kind}s"].setdefault(name, revision)
        write_json(path, {section: dict(sorted(names.items())) for section, names in lock.items()})
    return revision


@contextmanager
def hub_errors(kind: Kind, name: str) -> Iterator[None]:
    """Turn the client's exceptions into MgsrErrors that tell gated, missing and unreachable apart."""
    from httpx2 import HTTPError  # the client's own dependency
    from huggingface_hub import errors
    from huggingface_hub.constants import ENDPOINT

    what = f"{kind} {name}"
    page = f"{ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    try:
        yield
    except errors.GatedRepoError as error:  # before RepositoryNotFoundError, of which it is a kind
        raise MgsrError(
            f"{what} is gated: accept its licence at {page}, then run `hf auth login` (or set HF_TOKEN) and repeat"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise MgsrError(
            f"{what} does not exist on {ENDPOINT}, or is private to others; check its spelling, and HF_TOKEN if it is yours"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise MgsrError(
            f"{what} no longer has the commit in the lock file; remove that line and run the workflow again"
        ) from error
    except errors.HFValidationError as error:
        raise MgsrError(f"'{name}' is neither a local folder nor a name on the hub (owner/name)") from error
    except errors.OfflineModeIsEnabled as error:
        raise MgsrError(f"{what} cannot be fetched while HF_HUB_OFFLINE is set; unset it for this step") from error
    except errors.LocalEntryNotFoundError as error:  # what a download says without network and without cache
        raise MgsrError(f"{what}: {ENDPOINT} could not be reached, and the cache lacks files; {_NETWORK}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        raise MgsrError(f"{what}: {ENDPOINT} answered {status}; repeat later, finished files are kept") from error
    except HTTPError as error:  # no answer at all
        raise MgsrError(f"{what}: {ENDPOINT} could not be reached ({error}); {_NETWORK}") from error
    except OSError as error:  # fewer bytes than were announced, or a full disk
        raise MgsrError(f"{what}: a file did not arrive whole ({error}); repeat, finished files are kept") from error


_NETWORK = "check the network, or give a local folder (source=local, or a path as the model's name)"
