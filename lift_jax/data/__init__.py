"""Data sets: their sources and splits, the views of an image, and the order of batches."""
