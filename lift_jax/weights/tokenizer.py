"""Prompts to token ids, by the tokenizer files that lie beside the weights."""

import re
import string
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from lift_jax.errors import UserError

OPENAI = 49_408  # tokens in the vocabulary of OpenAI's CLIP, which most others share
FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


def find(folder: Path) -> bool:
    """Says whether a folder has the files of a tokenizer."""
    older = all((folder / name).exists() for name in ("vocab.json", "merges.txt"))
    return older or (folder / "tokenizer.json").exists()


class Tokenizer:
    """Turns texts into rows of `context` ids, of which it is one of three kinds by its files.

    CLIP's (BPE on bytes) gives start, text, end, zeros. `context` counts all of them. What follows
    the end token is never seen by the causal tower's pooled feature.

    SigLIP's (a unigram model) takes texts in lower case without punctuation and fills up with the
    end token; SigLIP 2's is Gemma's (BPE that falls back to bytes), takes texts in lower case and
    fills up with "<pad>", whatever their configs say. These towers see the padding.

    Raises UserError if the folder has no tokenizer or it cannot be read.
    """

    def __init__(self, folder: Path, context: int):
        import tokenizers  # here, so that commands without a tokenizer start faster

        if not find(folder):
            raise _absent(folder)
        try:
            if (folder / "tokenizer.json").exists():
                fast = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            else:
                import transformers

                fast = transformers.CLIPTokenizer.from_pretrained(folder).backend_tokenizer
        except Exception as e:  # both libraries raise bare Exception for a file they cannot parse
            raise UserError(f"Cannot read the tokenizer in {folder}: {e}. Get it again.") from e
        fast.no_padding()
        fast.no_truncation()
        self._fast = fast
        self._clean: Callable[[str], str] = str
        self._end: int | None = None  # put behind the ids; None: the file's own template does
        self.context = context
        self.pad = 0
        if isinstance(fast.model, tokenizers.models.Unigram):
            self._clean, self._end = _canonical, self._id("</s>", folder)
            self.pad = self._end
        elif isinstance(fast.model, tokenizers.models.BPE) and fast.model.byte_fallback:
            self._clean, self._end = str.lower, self._id("<eos>", folder)
            self.pad = self._id("<pad>", folder)

    def _id(self, token: str, folder: Path) -> int:
        found = self._fast.token_to_id(token)
        if found is None:
            raise UserError(
                f"The tokenizer in {folder} has no token {token}: expected that of CLIP, SigLIP or "
                "SigLIP 2. Copy it from the model that the weights are of."
            )
        return found

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns i32[len(texts), context]; texts that are too long are cut, with a warning."""
        rows = np.full((len(texts), self.context), self.pad, np.int32)
        cleaned = [self._clean(text) for text in texts]
        encodings = self._fast.encode_batch(cleaned, add_special_tokens=self._end is None)
        cut = []
        for row, text, encoding in zip(rows, texts, encodings, strict=True):
            ids = encoding.ids if self._end is None else [*encoding.ids, self._end]
            if len(ids) > self.context:
                cut.append(text)
                ids = ids[: self.context - 1] + ids[-1:]
            row[: len(ids)] = ids
        if cut:
            more = f" and {len(cut) - 1:,} more" if len(cut) > 1 else ""
            logging.warning("cut to %d tokens for the text tower: %r%s", self.context, cut[0], more)
        return rows


def _canonical(text: str) -> str:
    """Lower case, no ASCII punctuation, single spaces: the texts of SigLIP's pre-training."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", bare).strip()


def _absent(folder: Path) -> UserError:
    if models := sorted(folder.glob("*.model")):
        return UserError(
            f"{folder} has a SentencePiece model alone, {models[0].name}; expected tokenizer.json. "
            "Copy that from the model's repository on the hub, or make SigLIP's, with "
            "sentencepiece installed, by transformers.T5Tokenizer.from_pretrained("
            f"{str(folder)!r}, extra_ids=0).save_pretrained({str(folder)!r})."
        )
    return UserError(
        f"{folder} has no tokenizer: expected tokenizer.json, or vocab.json and merges.txt. Copy "
        "them from the model that the weights are of."
    )
