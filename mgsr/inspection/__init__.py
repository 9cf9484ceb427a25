"""Finished results for a person who looks at them, as text in a terminal."""
