"""Records in, prompts and token ids out. Nothing here imports torch."""
