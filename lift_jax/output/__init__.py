"""Output: text from outside, shown as it is and never interpreted."""
