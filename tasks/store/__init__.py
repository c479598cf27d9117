"""The artifact store: what stages hand each other, by content."""
