"""Where records come from, and which are kept."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mgsr.config.base import Strict

Source = Literal["hub", "local", "builtin"]
Split = Literal["paper", "minillm"]
SetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class TestSetConfig(Strict):
    """A test set: a column of Table 1."""

    __test__ = False  # pytest would take the name for a test's

    title: str = Field(min_length=1, description="as tables print it")
    file: str | None = Field(None, description="a JSONL file of your own, read whatever the `source` is")
    repository: str | None = Field(None, description="source `hub`: owner/name of the data set")
    stems: tuple[str, ...] = Field(("valid", "test"), description="source `hub`: names that the file may have, without suffix")
    path: str | None = Field(None, description="source `local`: the file in MiniLLM's layout")
    licence: str = Field("", description="of the records; their manifest states it")
    rows: int | None = Field(None, ge=1, description="use the first rows only; null uses all")

    @model_validator(mode="after")
    def _has_an_origin(self) -> Self:
        if not (self.file or self.repository or self.path):
            raise ValueError("nothing says where its records are; give `file`, a JSONL file of your own")
        return self


class DataConfig(Strict):
    """Where records come from and which are kept. Lengths are in tokens."""

    source: Source = Field("hub", description="where the records come from")
    data_dir: str | None = Field(None, description="folder of the records; source `local` only")
    split: Split = Field(
        "paper",
        description="of Dolly as MiniLLM publishes it. `paper`: the first 500 validation rows are for validation, the others "
        "train; `minillm`: unchanged",
    )
    max_length: int = Field(512, ge=2, description="prompt and response together")
    max_prompt_length: int = Field(256, ge=1, description="longer prompts are dropped, and counted")
    train_rows: int | None = Field(None, ge=1, description="use the first rows only; null uses all")
    validation_rows: int | None = Field(None, ge=1, description="use the first rows only; null uses all")
    test_sets: dict[SetName, TestSetConfig] = Field(
        default_factory=dict, description="by name, in the order of columns; workflow/test_sets.yaml has the paper's five"
    )

    @model_validator(mode="after")
    def _room_for_a_response(self) -> Self:
        if self.max_prompt_length >= self.max_length:
            raise ValueError(f"max_prompt_length {self.max_prompt_length} leaves no room below max_length {self.max_length}")
        return self
