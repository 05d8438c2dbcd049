"""The groups of settings, a file each."""
