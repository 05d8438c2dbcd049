"""The meaning of folders: which are splits, which are classes, and what is left beside them."""
