"""Tests of the four kinds of tokenizer, and of files that are missing or broken."""

import json
import shutil

import numpy as np
import pytest
import tokenizers
from support.paths import GOLDEN

import lift_jax
from lift_jax.errors import UserError
from lift_jax.weights.names import hub
from lift_jax.weights.tokenizer import OPENAI, Tokenizer, find

TOKENIZERS = GOLDEN / "tokenizers"


def test_the_demo_tokenizer_by_hand():
    tokenizer = lift_jax.load_tokenizer("demo", context=16)
    rows = tokenizer(["a photo of a three.", "a photo of a Three.", "seven"])
    end = lift_jax.load_backbone("demo").config.text.eot
    assert rows.dtype == np.int32 and rows.shape == (3, 16)
    assert np.array_equal(rows[0], rows[1]) and not np.array_equal(rows[0], rows[2])
    for row in rows:
        assert (row == end).sum() == 1 and row[0] == rows[0, 0]
        assert not row[int(np.flatnonzero(row == end)[0]) + 1 :].any()


def test_a_text_alone_is_no_list_of_letters():
    tokenizer = lift_jax.load_tokenizer("demo", context=16)
    with pytest.raises(ValueError, match=r"found one: give \['a fox'\]"):
        tokenizer("a fox")


def test_a_long_text_is_cut_and_keeps_its_end():
    tokenizer = lift_jax.load_tokenizer("demo", context=16)
    end = lift_jax.load_backbone("demo").config.text.eot
    row = tokenizer(["seven " * 40])[0]
    assert row[-1] == end and (row == end).sum() == 1


@pytest.mark.slow
def test_tokenizer_of_the_older_files(tmp_path):
    """vocab.json and merges.txt are read by CLIP's rules if there is no tokenizer.json."""
    vocab = {"<|startoftext|>": 4, "<|endoftext|>": 5, "a": 0, "b": 1, "a</w>": 2, "b</w>": 3}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab | {"ab</w>": 6}))
    assert not find(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    assert find(tmp_path)
    assert Tokenizer(tmp_path, 7)(["ab A  b"]).tolist() == [[4, 6, 2, 3, 5, 0, 0]]


# The ids are those of transformers' SiglipTokenizer and Siglip2Tokenizer, padded and cut to 16.
@pytest.mark.parametrize(("kind", "text", "ids"), [
    ("siglip", "a photo of a red fox.", [9, 11, 17, 9, 3, 22]),
    ("siglip", "A Photo of the Tree's LEAF!!", [9, 11, 17, 16, 8, 5, 6, 51]),
    ("siglip", "", []),
    ("siglip", "zebra-crossing (large), 3 dogs & ünïcode",
     [50, 32, 49, 30, 46, 47, 38, 46, 45, 6, 6, 43, 36, 39, 4]),
    ("siglip", "one two three " * 20, [26, 12, 20] * 5),
    ("siglip2", "a photo of a red fox.", [345, 337, 335, 345, 326, 330, 51]),
    ("siglip2", "A Photo of the Tree's LEAF!!", [345, 337, 335, 390, 383, 38, 38]),
    ("siglip2", "zebra-crossing (large), 3 dogs & ÜnïCode 図",
     [288, 271, 268, 281, 267, 50, 269, 281, 279, 282, 282, 275, 278, 273, 289]),
    ("siglip2", "one two three " * 20, [364, 344, 361] * 5),
])  # fmt: skip
def test_siglip(kind, text, ids):
    tokenizer = Tokenizer(TOKENIZERS / kind, 16)
    end, pad = (1, 1) if kind == "siglip" else (1, 0)
    assert tokenizer([text]).tolist() == [[*ids, end, *[pad] * (15 - len(ids))]]


@pytest.mark.parametrize(("text", "ids"), [
    ("a photo of a cat.", [5, 6, 7, 5, 9, 10, 12]), ("A Cat!", [4, 19, 22, 21]),
    ("the  dog ", [8, 11]),
    ("photo of the é ß unknown Q", [6, 7, 8, 4, 23, 4, 24, 4, 3, 16, 3, 4, 3]),
    ("dog " * 30, [11] * 14), ("", []),
])  # fmt: skip
@pytest.mark.parametrize("template", [True, False])
def test_xlm(tmp_path, text, ids, template):
    """The ids are those of transformers' XLMRobertaTokenizer, padded and cut to 16."""
    folder = shutil.copytree(TOKENIZERS / "xlm", tmp_path / "xlm")
    if not template:
        about = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
        (folder / "tokenizer.json").write_text(json.dumps(about))
    expected = [0, *ids, 2, *[1] * (14 - len(ids))]
    assert Tokenizer(folder, 16)([text]).tolist() == [expected]


def test_gemmas_own_template_is_not_that_of_siglip_2(tmp_path):
    """Gemma's texts begin with <bos>. SigLIP 2's have no <bos> and end with <eos>."""
    gemma = tokenizers.Tokenizer.from_file(str(TOKENIZERS / "siglip2" / "tokenizer.json"))
    gemma.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    gemma.save(str(tmp_path / "tokenizer.json"))
    rows = [Tokenizer(folder, 9)(["a photo"]) for folder in (tmp_path, TOKENIZERS / "siglip2")]
    assert np.array_equal(*rows)


def test_tokenizer_files_that_are_missing_or_broken(tmp_path):
    assert not find(tmp_path)
    with pytest.raises(UserError, match="has no tokenizer"):
        Tokenizer(tmp_path, 7)
    (tmp_path / "spiece.model").write_bytes(b"\n")
    with pytest.raises(UserError, match=r"alone, spiece\.model; expected tokenizer\.json"):
        Tokenizer(tmp_path, 7)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="Cannot read the tokenizer"):
        Tokenizer(tmp_path, 7)


def test_a_tokenizer_of_another_family(tmp_path):
    shutil.copytree(TOKENIZERS / "siglip", tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "tokenizer.json").read_text().replace("</s>", "[end]")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match="no token </s>: expected that of CLIP"):
        Tokenizer(tmp_path, 7)


def test_weights_without_a_tokenizer_get_openais(tmp_path, monkeypatch):
    """Bare weights with its vocabulary do, as a file or in a folder; a model's own folder has its
    own."""
    monkeypatch.setattr(hub, "clip_tokenizer", lambda: hub.DEMO)
    file = tmp_path / "last.ckpt"
    file.touch()
    for path in (file, tmp_path):
        assert lift_jax.load_tokenizer(path, 16, OPENAI)(["a"]).shape == (1, 16)
        with pytest.raises(UserError, match="has no tokenizer"):
            lift_jax.load_tokenizer(path, 16, 600)
    (tmp_path / "config.json").touch()
    with pytest.raises(UserError, match="has no tokenizer"):
        lift_jax.load_tokenizer(tmp_path, 16, OPENAI)
