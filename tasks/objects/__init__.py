"""Objects by key, written once or moved by compare-and-swap: in a local folder or in S3."""
