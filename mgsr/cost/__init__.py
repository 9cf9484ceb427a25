"""What a plan costs before it runs: jobs, GPU-hours, peak memory, disk. docs/cost.md says how each figure is made."""
