"""How fast the parts are beside what people use today: `python -m tests.bench [row ...]` measures both in turn."""
