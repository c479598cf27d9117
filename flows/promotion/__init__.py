"""Promotions, and who hears of them."""
