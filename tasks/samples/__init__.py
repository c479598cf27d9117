"""Samples in files and shards, and the shapes that they are fed in."""
