"""Token sequences in, token sequences out: sampling, revision (SCRG) and the choice of what a step trains on."""
