"""What MGSR is compared with, in Table 1 and in claims: the paper's seven baselines, and a control of ours."""

from __future__ import annotations

from mgsr.config.base import SECOND_ROW

BASELINES = {  # by method, as texts name it
    "sft": "SFT", "kd": "KD", "seqkd": "SeqKD", "imitkd": "ImitKD", "gkd": "GKD", "minillm": "MiniLLM", "distillm": "DistiLLM",
    "sft_continued": "SFT continued",
}  # fmt: skip


def is_baseline(method: str) -> bool:
    """Whether a method is one of `BASELINES`, or the second row (SFT weight 0) of one."""
    return method.removesuffix(SECOND_ROW) in BASELINES
