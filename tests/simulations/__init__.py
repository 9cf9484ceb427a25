"""Seeded simulations of the statistics; each prints a table that docs/statistics_simulations.md has."""
