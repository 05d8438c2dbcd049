"""Texts of classes: their features, computed once and kept."""
