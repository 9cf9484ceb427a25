"""Finished runs in; tables, a report and an MLflow store out. Reads cards, scores and rows, never a model."""
