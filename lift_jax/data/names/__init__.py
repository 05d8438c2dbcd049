"""Class names: which are the same, what files of names say, and how prompts spell them."""
