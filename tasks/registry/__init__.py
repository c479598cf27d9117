"""The registry of engines that passed."""
