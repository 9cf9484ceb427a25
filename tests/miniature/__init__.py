"""The paper preset in miniature: a stand-in for the hub, with the real names and layouts and tiny models."""
