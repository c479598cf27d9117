"""Engines served: what Triton runs, and what it keeps of its traffic."""
