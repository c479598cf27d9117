"""Models of Triton's Python backend: files that are copied into a repository as they are."""
