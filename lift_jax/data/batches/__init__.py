"""Batches: their order, their rows, and the reading ahead of them."""
