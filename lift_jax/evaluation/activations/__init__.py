"""Activations of the frozen blocks, kept in files and read instead of images."""
