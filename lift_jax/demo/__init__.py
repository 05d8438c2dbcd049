"""The embedded demo: a tiny CLIP in `tiny_clip/`, and how it was made from rendered glyphs."""
