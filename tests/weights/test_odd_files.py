"""Damaged and made-up weight files: the right sizes, or one error that names the file."""

import json
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support.odd_values import ODD_VALUES
from support.paths import GOLDEN

from lift_jax.errors import UserError
from lift_jax.weights import conversion, load, native
from lift_jax.weights.files.source import open_source, read_safetensors

MUTATIONS = 200
# a small file of every layout
FILES = (
    "clip_openai.safetensors", "timm_vit.safetensors", "torch/clip_vit.pt", "torch/clip_rn.pth",
    "torch/hf_bin/pytorch_model.bin", "torch/hf_sharded/model.safetensors.index.json",
    "open_clip/open_clip_config.json", "siglip_hf/config.json", "hf_vit/preprocessor_config.json",
)  # fmt: skip


def sizes(path):
    """Opens a source and reads its sizes, which comes before any leaf is read."""
    source = open_source(path)
    return conversion.read_sizes(source, conversion.format_of(source)), sorted(source.tensors)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Returns bytes with a few changed, cut out, repeated or cut off; most near the beginning."""
    raw = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(len(raw), rng.choice((64, 4096, len(raw)))) or 1)
        kind = rng.randrange(5)
        if kind == 0:
            raw[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            raw[at : at + rng.randint(1, 8)] = b""
        elif kind == 2:
            raw[at:at] = raw[at : at + rng.randint(1, 64)]
        elif kind == 3:
            raw[at : at + 1] = rng.choice(
                (b"9" * 30, b"[" * 200, b"null", b'"', b"-1", b"\0\0\0\0")
            )
        else:
            del raw[max(at, 1) :]
    return bytes(raw)


@pytest.mark.parametrize("name", FILES)
def test_changed_bytes_give_the_sizes_or_a_users_mistake(name, tmp_path):
    whole = GOLDEN / name
    folder = tmp_path / "model"
    if whole.parent in (GOLDEN, GOLDEN / "torch"):
        folder.mkdir()
        shutil.copy(whole, folder)
    else:
        shutil.copytree(whole.parent, folder)
    file = folder / whole.name
    where = file if whole.parent in (GOLDEN, GOLDEN / "torch") else folder
    content, rng = whole.read_bytes(), random.Random(0)
    expected, started = sizes(where), time.monotonic()
    refused = 0
    for _ in range(MUTATIONS):
        file.write_bytes(mutate(content, rng))
        try:
            found = sizes(where)
        except UserError as error:
            refused += 1
            assert str(folder) in str(error) and len(str(error)) < 3000
        else:
            assert type(found) is type(expected)
    assert refused
    assert time.monotonic() - started < 20


CONFIGS = [
    ("clip_hf", "config.json"), ("siglip_hf", "config.json"), ("siglip2", "config.json"),
    ("hf_vit", "config.json"), ("dinov2_hf", "config.json"), ("dinov3", "config.json"),
    ("open_clip", "open_clip_config.json"),
    ("timm/timm_vit", "config.json"), ("hf_vit", "preprocessor_config.json"),
]  # fmt: skip
LARGE = (3000, 10**6, 10**9, 10**12, 2**62, 0, -1, 1e300, 1e-300, "a" * 10_000)


def entries(value, path=()):
    """Yields the paths of all entries of nested objects."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from entries(inner, (*path, key))


@pytest.mark.parametrize(("name", "config"), CONFIGS)
def test_any_declared_value_is_refused_before_anything_is_built(name, config):
    source = open_source(GOLDEN / name)
    field = {"config.json": "config", "open_clip_config.json": "open_clip"}.get(config, "images")
    whole = json.loads((GOLDEN / name / config).read_text())
    plain = [value for value in ODD_VALUES if isinstance(value, int | float | str | list | dict)]
    odd = [value for value in plain if isinstance(value, str) or abs_of(value) < 2**63]
    for path in entries(whole):
        for value in (*odd, *LARGE):
            changed = json.loads(json.dumps(whole))
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            setattr(source, field, changed)
            started = time.monotonic()
            try:
                conversion.read_sizes(source, conversion.format_of(source))
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 2000
            assert time.monotonic() - started < 1, (path, value)


def abs_of(value):
    return abs(value) if isinstance(value, int | float) else 0


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({"weight_map": {"a": 5}}, "weight_map has 5"), ({"weight_map": []}, "no weight_map"),
        ({"weight_map": {"a": None}}, "has None"), ({"weight_map": {"a": ""}}, "has ''"),
        ({"weight_map": {"a": "../b"}}, "outside its"), ({"weight_map": {}}, "no weight_map"),
        ({"weight_map": {"a": ".."}}, "outside its folder"), (5, "expected a JSON object"),
        ({"weight_map": {"a": "b" * 300}}, "expected the name of a file"), (None, "JSON object"),
        ({"weight_map": {"a": "b\0"}}, "outside"), ({"weight_map": {"a": ["b"]}}, "has .'b'."),
    ],
)  # fmt: skip
def test_indexes(tmp_path, index, says):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"index.json.*{says}"):
        open_source(tmp_path)


def header(file: Path, entry: dict, data: bytes = b"") -> Path:
    raw = json.dumps({"a": entry}).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return file


@pytest.mark.parametrize(
    "shape",
    [[1] * 100, [2**62, 0], [0, 2**63], [2**62], [-1], [1.5], "a", None, {}, [[1]], [True], 1],
    ids=str,
)
def test_shapes_of_safetensors(tmp_path, shape):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}
    for data, end in ((b"1234", 4), (b"", 0)):
        file = header(tmp_path / "a.safetensors", entry | {"data_offsets": [0, end]}, data)
        with pytest.raises(UserError, match=r"a.safetensors"):
            read_safetensors(file)


def test_a_scalar_and_an_empty_tensor_are_read(tmp_path):
    kept = {"a": np.array(3.0, np.float32), "b": np.zeros((0, 4), np.float16)}
    safetensors.numpy.save_file(kept, tmp_path / "a.safetensors")
    tensors, _, _ = read_safetensors(tmp_path / "a.safetensors")
    assert tensors["a"] == 3 and tensors["b"].shape == (0, 4) and tensors["b"].dtype == np.float16


def test_a_converted_copy_with_metadata_of_another_kind(tmp_path):
    load.convert(GOLDEN / "hf_vit", tmp_path)
    file = tmp_path / native.NAME
    tensors, _, texts = read_safetensors(file)
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    about = json.loads(texts[native.KEY])
    assert native.describe(file) is not None

    def described(changed):
        safetensors.numpy.save_file(tensors, file, {native.KEY: json.dumps(changed)})
        return native.describe(file)

    odd = [value for value in ODD_VALUES if isinstance(value, list | dict | str | None)]
    for value in (*odd, 5, 1.5, True, 3000, 10**9, 0, -1):
        assert described(value) is None
        assert described(about | {"config": value}) is None
        assert described(about | {"checksums": value}) is None
        for group in ("vision", "text"):
            config = about["config"] | {group: value}
            found = described(about | {"config": config})
            assert found is None or (group, value) == ("text", None)
        for key in ("layers", "width", "patch", "resolution", "mlp", "mean"):
            vision = about["config"]["vision"] | {key: value}
            found = described(about | {"config": about["config"] | {"vision": vision}})
            if found is not None:  # sizes near to those of the tensors
                with pytest.raises(UserError, match="other names or shapes than its sizes say"):
                    load.load_backbone(file)
    assert described(about) is not None
    with pytest.raises(UserError, match="is not a supported model"):
        described([])
        load.load_backbone(file)
