"""From a push to engines."""
