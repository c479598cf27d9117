"""Calibration sets: what they hold, whether they look like the traffic, and what INT8 makes of them."""
