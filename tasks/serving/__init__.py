"""Engines served by Triton: its configuration, its model repository, and its server's API."""
