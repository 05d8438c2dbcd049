"""Transformer blocks and their layers, with the formulas and their lean backward passes."""
