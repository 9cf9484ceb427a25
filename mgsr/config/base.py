"""What every part of the configuration has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

TEST_SETS = ("dolly", "self_instruct", "vicuna", "sni", "unni")
WITHOUT_SFT = "_without_sft"  # ends the name of a method's second row


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
