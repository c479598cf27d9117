"""Engines that are made on the runners of their targets."""
