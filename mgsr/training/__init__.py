"""One loop for every method: sequences, objective and start come from the method, everything else is shared."""
