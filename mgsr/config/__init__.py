"""Configuration in, a plan of content-addressed runs out. Nothing here imports torch."""
