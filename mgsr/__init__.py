"""MGSR: a reproducible benchmark of white-box distillation for language models (arXiv 2407.10068)."""

__version__ = "0.1.0"
