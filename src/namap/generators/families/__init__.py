"""One module a family of generators; see `generators/training.py` for what it holds."""
