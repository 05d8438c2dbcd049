"""Names and captions of glyphs, and a small tokenizer that reads any text."""

import itertools
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from lift_jax.demo.glyphs import CHARACTERS, DIGITS
from lift_jax.storage import atomic

START, END = "<|startoftext|>", "<|endoftext|>"
VOCAB = 512  # upper limit: bytes, merges, START and END
CONTEXT = 16

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIGNS = {
    "+": ("plus sign", "plus"),
    "-": ("minus sign", "dash"),
    "=": ("equals sign", "equal sign"),
    "*": ("asterisk", "star"),
    "#": ("hash sign", "number sign"),
    "%": ("percent sign", "percent"),
    "&": ("ampersand", "and sign"),
    "@": ("at sign", "at symbol"),
    "?": ("question mark",),
    "!": ("exclamation mark", "exclamation point"),
    "$": ("dollar sign", "dollar"),
    "/": ("slash", "forward slash"),
    "(": ("opening parenthesis", "left bracket"),
    ")": ("closing parenthesis", "right bracket"),
    "<": ("less than sign", "less than"),
    ">": ("greater than sign", "greater than"),
}

PHOTO = "a photo of a {}."
TEMPLATES = (
    PHOTO,
    "{}",
    "a {}.",
    "the {}.",
    "a picture of a {}.",
    "an image of the {}.",
    "a handwritten {}.",
    "a printed {}.",
    "a drawing of a {}.",
    "a blurry photo of a {}.",
    "a scan of the {}.",
    "handwriting of a {}.",
)


def names(character: str) -> tuple[str, ...]:
    """Returns the names of a character, the usual one first."""
    if character in DIGITS:
        word = NUMBERS[int(character)]
        return (word, character, f"digit {word}", f"number {word}", f"digit {character}")
    if character in SIGNS:
        return SIGNS[character]
    if character.islower():
        return (f"letter {character}", f"small letter {character}", f"lower case {character}")
    small = character.lower()
    return (f"capital letter {small}", f"capital {small}", f"upper case {small}")


def captions(character: str) -> list[str]:
    """Returns all captions of a character: each of its names in each template."""
    return [t.format(name) for t, name in itertools.product(TEMPLATES, names(character))]


def train_tokenizer() -> tokenizers.Tokenizer:
    """Trains a lower-casing byte-level BPE on all captions; the end token has the largest id.

    Its alphabet is all 256 bytes, so that it can encode any text.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.chain(*map(captions, CHARACTERS)), trainer)
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (START, END)],
    )
    return tokenizer


def save_tokenizer(tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json into a folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
    }
    atomic.write_json(folder / "tokenizer_config.json", config)
