"""The stages of a conversion, one module each."""
