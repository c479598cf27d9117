"""Registered engines made again on a runner with another toolchain, and what changed by it."""
