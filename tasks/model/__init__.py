"""Model directories: model.yaml, what it names, and the version that follows."""
