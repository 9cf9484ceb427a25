"""The card beside every trained model: what was asked, what happened, and with which versions."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mgsr.config.schema import RunSpec

PACKAGES = ("mgsr", "torch", "transformers", "tokenizers", "peft", "safetensors", "textblob", "numpy")
COLLAPSED_SHARE = 0.9  # of the logged steps; method.md's threshold


def git_commit() -> str | None:
    """Commit of the checkout that the package lies in, "-dirty" where it was edited; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def failure_signatures(student_share: float | None, spec: RunSpec, lines: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Named warnings: signs that a method did not do what its name says."""
    warnings = []
    if student_share == 0:
        warnings.append({"name": "no_student_text", "message": "no step used a student-generated sequence"})
    bands = [line["band/collapsed"] for line in lines if line["kind"] == "train" and line.get("band/collapsed") is not None]
    collapsed = sum(share >= COLLAPSED_SHARE for share in bands)
    if bands and collapsed >= COLLAPSED_SHARE * len(bands):
        message = f"at most one class was kept on 90 % of positions in {collapsed} of {len(bands)} logged steps"
        warnings.append({"name": "band_collapsed", "message": message})
    norms = [line["clip_network_gradient_norm"] for line in lines if line.get("clip_network_gradient_norm") is not None]
    idle = sum(norm < 1e-8 for norm in norms)
    if norms and idle >= COLLAPSED_SHARE * len(norms):
        message = f"DAC-KL's clipping network had a gradient below 1e-8 in {idle} of {len(norms)} logged steps"
        warnings.append({"name": "clip_network_untrained", "message": message})
    return warnings


def make_card(run: str, spec: RunSpec, **facts: Any) -> dict[str, Any]:
    """The fields that every card has, and the `facts` of the run."""
    return {
        "schema": 1,
        "run": run,
        "family": spec.family,
        "method": spec.method.title,
        "title": spec.method.title,
        "seed": spec.seed,
        "spec": spec.model_dump(mode="json"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": git_commit(),
        **facts,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
