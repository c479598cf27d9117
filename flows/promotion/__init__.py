"""Promotions: with a person in the loop, and what people are shown of them."""
