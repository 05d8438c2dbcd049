"""Formats of files: CSV tables, rows of arrays, and tensors."""
