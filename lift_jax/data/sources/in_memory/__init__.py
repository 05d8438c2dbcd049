"""Data sets in memory, for which `data.root` needs no files."""
