"""The tokenizer, which turns prompts into token ids by the tokenizer files beside the weights."""

import re
import string
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from lift_jax.errors import UserError

OPENAI = 49_408  # size of the vocabulary of OpenAI's CLIP, which most other CLIPs share
XLM = ("<s>", "<pad>", "</s>")  # the first tokens of XLM-R, whose kind MetaCLIP 2 takes
FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


def find(folder: Path) -> bool:
    """Returns True if a folder has the files of a tokenizer."""
    older = all((folder / name).exists() for name in ("vocab.json", "merges.txt"))
    return older or (folder / "tokenizer.json").exists()


class Tokenizer:
    """A tokenizer that turns texts into rows of `context` ids.

    The files in the folder decide which of four kinds it is:

    - CLIP (BPE on bytes): a row is start token, text, end token, zeros. The causal text tower's
      pooled feature never sees what follows the end token.
    - MetaCLIP 2 (the unigram model of XLM-R): a row is start token, text, end token, "<pad>".
    - SigLIP (another unigram model): texts are put in lower case and lose their punctuation. A row
      is text, then end tokens.
    - SigLIP 2 (Gemma's BPE, which falls back to bytes): texts are put in lower case. A row is text,
      end token, then "<pad>".

    SigLIP's towers see the padding. The padding and the lower case are fixed here, whatever the
    config of the tokenizer says.

    Attributes:
        context: the number of ids in a row, with start and end tokens.
        pad: the id that fills up a row.

    Raises UserError if the folder has no tokenizer, or one that cannot be read.
    """

    def __init__(self, folder: Path, context: int):
        import tokenizers  # inside, so that commands without a tokenizer start faster

        if not find(folder):
            raise _absent(folder)
        try:
            if (folder / "tokenizer.json").exists():
                fast = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            else:
                import transformers

                fast = transformers.CLIPTokenizer.from_pretrained(folder).backend_tokenizer
        except Exception as e:  # both libraries raise bare Exception for a file they cannot parse
            raise UserError(
                f"Cannot read the tokenizer in {folder}: {e}. Get its files again."
            ) from e
        fast.no_padding()
        fast.no_truncation()
        self._fast = fast
        self._clean: Callable[[str], str] = str
        # the tokens around each text; an end of None: the file's own template adds both
        self._end: int | None = None
        self._start: list[int] = []
        self.context = context
        self.pad = 0
        unigram = isinstance(fast.model, tokenizers.models.Unigram)
        if unigram and [fast.token_to_id(token) for token in XLM] == [*range(len(XLM))]:
            self._start, self.pad, self._end = [0], 1, 2
        elif unigram:
            self._clean, self._end = _canonical, self._id("</s>", folder)
            self.pad = self._end
        elif isinstance(fast.model, tokenizers.models.BPE) and fast.model.byte_fallback:
            self._clean, self._end = str.lower, self._id("<eos>", folder)
            self.pad = self._id("<pad>", folder)

    def _id(self, token: str, folder: Path) -> int:
        """Returns the id of a special token. Raises UserError if there is no such token."""
        index = self._fast.token_to_id(token)
        if index is None:
            raise UserError(
                f"The tokenizer in {folder} has no token {token}: expected that of CLIP, SigLIP, "
                "SigLIP 2 or MetaCLIP 2. Copy the tokenizer files of the model that the weights "
                "come from."
            )
        return index

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the token ids, int32 of shape (number of texts, context).

        A text that is too long is cut, keeps its end token, and is logged as a warning.
        Raises ValueError for a text alone, whose letters would be the texts.
        """
        if isinstance(texts, str):
            raise ValueError(f"expected several texts, found one: give [{texts[:40]!r}]")
        rows = np.full((len(texts), self.context), self.pad, np.int32)
        cleaned = [self._clean(text) for text in texts]
        encodings = self._fast.encode_batch(cleaned, add_special_tokens=self._end is None)
        cut = []
        for row, text, encoding in zip(rows, texts, encodings, strict=True):
            ids = encoding.ids if self._end is None else [*self._start, *encoding.ids, self._end]
            if len(ids) > self.context:
                cut.append(text)
                ids = ids[: self.context - 1] + ids[-1:]
            row[: len(ids)] = ids
        if cut:
            more = f" and {len(cut) - 1:,} more" if len(cut) > 1 else ""
            logging.warning("cut to %d tokens for the text tower: %r%s", self.context, cut[0], more)
        return rows


def _canonical(text: str) -> str:
    """Returns a text as SigLIP's pre-training had it: lower case, no ASCII punctuation, single
    spaces."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", bare).strip()


def _absent(folder: Path) -> UserError:
    """Returns the error for a folder without tokenizer files that can be read."""
    if models := sorted(folder.glob("*.model")):
        return UserError(
            f"{folder} has a SentencePiece model alone, {models[0].name}; expected tokenizer.json. "
            "Copy tokenizer.json from the model's repository on the hub. For SigLIP you can also "
            "install sentencepiece and write it by transformers.T5Tokenizer.from_pretrained("
            f"{str(folder)!r}, extra_ids=0).save_pretrained({str(folder)!r})."
        )
    return UserError(
        f"{folder} has no tokenizer: expected tokenizer.json, or vocab.json and merges.txt. Copy "
        "these files from the model that the weights come from."
    )
