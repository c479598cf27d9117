"""From an engine that passed to the host that serves it."""
