"""What runs where torch is: the user's module, traced, run and timed."""
