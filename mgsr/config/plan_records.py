"""The records that a configuration needs, as specs. Records are known by their contents, as far as they can be known before a
job reads them: files by their SHA-256, data sets of the hub by the commit in the lock file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mgsr.config.record_files import TRAINING_REPOSITORY, contents, local_folder
from mgsr.config.record_sets import DataConfig
from mgsr.config.specs import DataSpec, TestSetSpec, spec_digest
from mgsr.config.stages import stage_code
from mgsr.hub import lock_path, read_lock


def hub_data_sets(data: DataConfig) -> list[str]:
    """Names of the hub's data sets that the records come from."""
    if data.source != "hub":
        return []
    named = [test_set.repository for test_set in data.test_sets.values() if not test_set.file]
    return sorted({TRAINING_REPOSITORY, *filter(None, named)})


def plan_records(data: DataConfig, root: Path) -> tuple[DataSpec, dict[str, TestSetSpec]]:
    """The training and validation records, and the test sets by name. `root`: the preset's results folder."""
    folder = local_folder(Path(data.data_dir)) if data.source == "local" and data.data_dir else None
    locked = read_lock(lock_path(root))["datasets"] if data.source == "hub" else {}
    shared: dict[str, Any] = {"source": data.source, "code": stage_code("prepare-data")}

    def revision(repository: str | None) -> dict[str, str]:
        return {repository: locked[repository]} if repository in locked else {}

    training = contents(folder.training_files(), folder.root) if folder else revision(TRAINING_REPOSITORY)
    spec = DataSpec(split=data.split, place=data.data_dir, contents=training, **shared)
    test_sets = {}
    for name, test_set in data.test_sets.items():
        place, file = data.data_dir, None
        if test_set.file:
            place, file = test_set.file, Path(test_set.file).name
            known = contents([Path(place)], Path(place).parent)
        elif folder:
            known = contents(folder.test_set_files(name, test_set), folder.root)
        else:
            known = revision(test_set.repository)
        # neither what tables call it nor how many of its rows are used is part of it
        origin = test_set.model_copy(update={"title": name, "rows": None, "file": file})
        identity = {"data": spec_digest(spec), "test_set": origin, "contents": known}
        test_sets[name] = TestSetSpec(name=name, place=place, **identity, **shared)
    return spec, test_sets
