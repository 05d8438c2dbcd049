"""The embedded demo: a tiny CLIP in `tiny_clip/`, and the code that made it from glyphs."""
