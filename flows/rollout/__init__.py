"""Rollouts as people see them, and the flow that carries one on."""
