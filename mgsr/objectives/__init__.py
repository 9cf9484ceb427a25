"""What a step minimises: rows of log-probabilities in, weighted sums out. Nothing here knows about text or batches."""
