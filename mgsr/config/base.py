"""What every part of the configuration has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

TEST_SETS = ("dolly", "self_instruct", "vicuna", "sni", "unni")
IN_DOMAIN = "dolly"  # the test set of the training data's kind: held-out KL, exposure bias and the probe are measured on it
SECOND_ROW = "@sft_weight_0"  # ends the name of a method's second row in Table 1


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
