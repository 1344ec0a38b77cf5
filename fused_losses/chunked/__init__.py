"""Losses with a matrix product in them, a tile of the product at a time."""
