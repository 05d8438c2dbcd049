"""Prompts to token ids, by the tokenizer files that lie beside the weights."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from lift_jax.errors import UserError

FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


class Tokenizer:
    """Turns texts into rows of `context` ids: start, text, end, zeros. `context` counts all three.

    What follows the end token is never seen by the causal tower's pooled feature, so the padding
    id does not matter.
    """

    def __init__(self, folder: Path, context: int):
        if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
            raise UserError(
                f"{folder} has no tokenizer: expected tokenizer.json, or vocab.json and "
                "merges.txt. Copy them from the model that the weights are of."
            )
        try:
            if (folder / "tokenizer.json").exists():
                import tokenizers  # here, so that commands without a tokenizer start faster

                fast = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            else:
                import transformers

                fast = transformers.CLIPTokenizer.from_pretrained(folder).backend_tokenizer
        except Exception as e:  # both libraries raise bare Exception for a file they cannot parse
            raise UserError(f"Cannot read the tokenizer in {folder}: {e}. Get it again.") from e
        fast.no_padding()
        fast.no_truncation()
        self._fast = fast
        self.context = context

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns i32[len(texts), context]; a text that is too long is cut, with a warning."""
        rows = np.zeros((len(texts), self.context), np.int32)
        for row, text, encoding in zip(
            rows, texts, self._fast.encode_batch(list(texts)), strict=True
        ):
            ids = encoding.ids
            if len(ids) > self.context:
                logging.warning("cut to %d tokens for the text tower: %r", self.context, text)
                ids = ids[: self.context - 1] + ids[-1:]
            row[: len(ids)] = ids
        return rows
