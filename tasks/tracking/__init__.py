"""Where conversions are logged."""
