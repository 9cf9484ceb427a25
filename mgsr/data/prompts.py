"""The prompt: Alpaca's wording with MiniLLM's ending, byte for byte. With any other, published checkpoints score lower."""

from __future__ import annotations

from mgsr.data.records import Record

WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


def format_prompt(record: Record) -> str:
    """All that stands before the response; the response follows at once and ends with EOS."""
    template = WITH_INPUT if record.input else WITHOUT_INPUT
    return template.format(instruction=record.instruction, input=record.input)
