"""Canary rollouts: the rules of their steps, their evidence, and what is done about it."""
