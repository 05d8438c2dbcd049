"""Images: decoding, and the square views that a network is shown."""
