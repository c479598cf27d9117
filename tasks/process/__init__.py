"""Child processes, and what every stage is given."""
