"""Prepared training splits: small JPEGs in a few large files, which are read fastest."""
