"""Does a job run the code that its result is named after?

Between the plan and the job, a file may be edited or pulled, or the job may find another checkout. The digests of the plan are
compared with the files when a job begins; a module that is imported later must still be the file that was there then.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mgsr import storage
from mgsr.config.identity import code_digest, module_files
from mgsr.config.stages import PAGE, STAGES, stage_code
from mgsr.errors import MgsrError
from mgsr.plugins import source_digest
from mgsr.storage import read_json


def check_code(root: Path, name: str, stage: str) -> None:
    """Raise MgsrError where the package, or a module of the user's own, is not what the job `name` was planned with. The
    package is compared again before anything is published, if a module that was imported since has another date than now."""
    path, stages = root / STAGES[stage].reads / f"{name}.json", PAGE if stage in PAGE else (stage,)
    stated, dates, present = read_json(path), _dates(), set(sys.modules)

    def compare() -> None:
        wrong = [] if stated["code"] == stage_code(*stages) else ["the code of mgsr"]
        wrong += [function for function, known in stated.get("custom_code", {}).items() if source_digest(function) != known]
        if wrong:
            raise MgsrError(f"{path}: {', '.join(wrong)} changed after the plan was made; start the workflow again")

    def compare_late_imports() -> None:
        now, late = _dates(), sys.modules.keys() - present
        if any(now.get(module) != date for module, date in dates.items() if module in late):
            code_digest.cache_clear()
            compare()

    compare()
    storage.before_publishing = compare_late_imports


def _dates() -> dict[str, int]:
    """When each module of the package was written, in nanoseconds."""
    return {module: file.stat().st_mtime_ns for module, file in module_files().items()}
