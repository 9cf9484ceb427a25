"""Decoded answers in, scores out: one row for each model, test set, protocol, decoding seed and example."""
