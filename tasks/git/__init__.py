"""Reads git repositories that nobody vouches for: objects only; nothing of them is checked out or run."""
