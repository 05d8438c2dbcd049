"""Figures, drawn without a display: a file for each kind."""
