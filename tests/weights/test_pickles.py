"""Tests of PyTorch's files: real ones are read exactly, damaged and malicious ones refused."""

import copyreg
import mmap
import os
import pickle
import pickletools
import random
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from support.paths import GOLDEN

from lift_jax.errors import UserError
from lift_jax.weights.files import pickles, state_dicts, torch_archive
from lift_jax.weights.files.source import open_source

KINDS = GOLDEN / "torch" / "kinds.pth"
FIXTURES = sorted(
    p
    for p in (*GOLDEN.glob("torch/**/*"), *GOLDEN.glob("authors/*"))
    if p.suffix in (".pt", ".pth", ".bin", ".tar")
)
SMALL = [p for p in FIXTURES if p.stat().st_size < 12_000]

BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
EXPECTED = {
    "float32": BASE,
    "view": BASE[1:3, ::2],
    "transposed": BASE.T,
    "float16": np.arange(15, dtype=np.float16).reshape(3, 5) / np.float16(8),
    "bfloat16": np.array([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5], ml_dtypes.bfloat16),
    "float64": np.array([0.1, -2.5]),
    "int64": np.array([2**40, -1]),
    "int32": np.arange(3, dtype=np.int32),
    "int16": np.arange(3, dtype=np.int16),
    "int8": np.array([-1, 0, 1], np.int8),
    "uint8": np.array([0, 255], np.uint8),
    "bool": np.array([True, False]),
    "scalar": np.float32(3.5),
    "empty": np.zeros((0, 4), np.float32),
    "parameter": np.array([[1, 2]], np.float32),
}


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


# Files that PyTorch wrote


def taken(contents, where):
    """Returns the tensors that are taken of the contents of a file."""
    return state_dicts.without_prefix(state_dicts.find(contents, where), where).tensors


def test_fixtures_are_there():
    assert len(FIXTURES) >= 10 and len(SMALL) >= 4


@pytest.mark.parametrize("name", ["kinds.pth", "kinds.bin"])
def test_every_dtype_and_layout_of_both_formats(name):
    path = GOLDEN / "torch" / name
    assert torch_archive.is_torch_file(path)
    same(taken(torch_archive.read(path).contents, name), EXPECTED)


def test_a_training_checkpoint_keeps_its_structure():
    contents = torch_archive.read(GOLDEN / "torch" / "kinds.bin").contents
    tensors = contents.pop("state_dict")
    assert contents == {"epoch": 3, "lr": 0.5, "size": (2, 3), "history": [1, (None, True)]}
    assert list(tensors)[0] == "module.float32"


def test_torchscript_gives_the_tensors_of_its_modules():
    same(dict(sorted(torch_archive.read(GOLDEN / "torch" / "kinds.pt").contents.items())), {
        "inner.fc.bias": np.array([0.5, -0.5], np.float32),
        "inner.fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "steps": np.array(7),
        "w": np.arange(4, dtype=np.float16),
    })  # fmt: skip


def test_openai_torchscript():
    tensors = torch_archive.read(GOLDEN / "torch" / "clip_vit.pt").contents
    assert taken(tensors, "it") == tensors
    assert len(tensors) == 53
    assert tensors["input_resolution"] == 32 and tensors["vocab_size"] == 64
    assert tensors["visual.conv1.weight"].dtype == np.float16
    assert tensors["visual.conv1.weight"].shape == (40, 3, 8, 8)
    assert tensors["visual.transformer.resblocks.1.ln_1.weight"].dtype == np.float32


def test_openai_resnet():
    tensors = taken(torch_archive.read(GOLDEN / "torch" / "clip_rn.pth").contents, "it")
    assert len(tensors) == 159
    assert tensors["visual.conv1.weight"].shape == (2, 3, 3, 3)
    assert tensors["visual.bn1.num_batches_tracked"] == 1000


def test_hugging_face_legacy_equals_its_safetensors():
    found = taken(
        torch_archive.read(GOLDEN / "torch" / "hf_bin" / "pytorch_model.bin").contents, "it"
    )
    assert found["logit_scale"].dtype == ml_dtypes.bfloat16
    assert not found["visual_projection.weight"].flags.c_contiguous
    expected = {}
    for shard in (GOLDEN / "torch" / "hf_sharded").glob("*.safetensors"):
        expected |= safetensors.numpy.load_file(shard)
    found = {name: array for name, array in found.items() if "position_ids" not in name}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name].astype(np.float16), array, err_msg=name)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: p.name)
def test_tensors_lie_in_the_file_and_its_pages_can_be_given_back(path):
    file = torch_archive.read(path)
    pages = np.frombuffer(file.pages, np.uint8)
    groups = [value for value in file.contents.values() if isinstance(value, dict)]
    arrays = [a for d in (file.contents, *groups) for a in d.values() if isinstance(a, np.ndarray)]
    for array in arrays:
        assert not array.size or np.shares_memory(array, pages)
        assert not array.size or not array.flags.writeable
    before = [array.copy() for array in arrays]
    file.pages.madvise(mmap.MADV_DONTNEED)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


# Files made by hand: a storage of 16 float32 numbers and a pickle


def plain(value) -> bytes:
    """Returns the steps of a pickle that make a plain value."""
    return pickletools.optimize(pickle.dumps(value, protocol=2))[2:-1]


def named(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(name: str, *arguments: bytes) -> bytes:
    return named(name) + b"(" + b"".join(arguments) + b"tR"


def storage(kind=b"torch.FloatStorage", key="0", count=16, word="storage") -> bytes:
    kind = named(kind.decode())
    return b"(" + plain(word) + kind + plain(key) + plain("cuda:0") + plain(count) + b"tQ"


def tensor(
    offset: object = 0, shape=(4, 4), strides=(4, 1), kept=None, function="_rebuild_tensor_v2"
):
    more = plain(False) + plain(None) if function.endswith("v2") else b""
    return call(
        f"torch._utils.{function}", kept or storage(), plain(offset), plain(shape), plain(strides),
        more,
    )  # fmt: skip


def in_zip(path: Path, program: bytes, **entries: bytes) -> Path:
    numbers = np.arange(16, dtype="<f4").tobytes()
    entries = {"data.pkl": b"\x80\x02" + program + b".", "data/0": numbers} | entries
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(f"any/{name}", data)
    return path


def in_legacy(path: Path, program: bytes) -> Path:
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
    data = np.arange(16, dtype="<f4").tobytes()
    keys = pickle.dumps(["0"] if b"storage" in program else [], 2) + struct.pack("<q", 16)
    path.write_bytes(b"".join(head) + b"\x80\x02" + program + b"." + keys + data)
    return path


FORMATS = pytest.mark.parametrize("write", [in_zip, in_legacy])


@FORMATS
@pytest.mark.parametrize(("program", "expected"), [
    (tensor(), np.arange(16).reshape(4, 4)),
    (tensor(2, (2, 3), (1, 4)), [[2, 6, 10], [3, 7, 11]]),
    (tensor(15, (), ()), 15),
    (tensor(16, (0, 3), (3, 1)), np.zeros((0, 3))),
    (tensor(0, (2, 1), (1, 2**40), function="_rebuild_tensor"), [[0], [1]]),
    (call("torch._utils._rebuild_parameter", tensor(3, (2,), (5,)), b"\x88N"), [3, 8]),
])  # fmt: skip
def test_strides_and_offsets_by_hand(tmp_path, write, program, expected):
    contents = torch_archive.read(
        write(tmp_path / "file", b"}" + plain("a") + program + b"s")
    ).contents
    found = taken(contents, "file")["a"]
    np.testing.assert_array_equal(found, np.asarray(expected, np.float32))


def test_nothing_is_read_before_its_use(tmp_path):
    path = in_legacy(tmp_path / "file", tensor(0, (2**36,), (1,), storage(count=2**36)))
    path.write_bytes(path.read_bytes()[:-72] + struct.pack("<q", 2**36))
    os.truncate(path, path.stat().st_size + 2**38)  # 256 GiB, all of it a hole
    assert torch_archive.read(path).contents[-1] == 0


# Malicious files. `MARK` stands for the argument of os.system, which would make a file.

SYSTEM, EVAL = named("os.system"), named("builtins.eval")
LIVE = {
    "reduce": SYSTEM + b"MARK\x85R",
    "eval": EVAL + b"EVAL\x85R",
    "instance": b"(MARKios\nsystem\n",
    "object": b"(" + SYSTEM + b"MARKo",
    "stack_global": plain("os") + plain("system") + b"\x93MARK\x85R",
    "in a state dict": b"}" + plain("weight") + SYSTEM + b"MARK\x85Rs",
    "as an argument": call("collections.OrderedDict", b"]" + SYSTEM + b"MARK\x85R0"),
    "partial": call("functools.partial", SYSTEM, b"MARK") + b")R",
    "through getattr": call("builtins.getattr", call("builtins.__import__", plain("os")),
                            plain("system")) + b"MARK\x85R",
    "extension": b"\x82\xf1MARK\x85R",
}  # fmt: skip
QUIET = {
    "new": SYSTEM + b"MARK\x85\x81",
    "new with keywords": SYSTEM + b"MARK\x85}\x92",
    "state of a dict": call("collections.OrderedDict") + SYSTEM + b"MARK\x85Rb",
    "state of a function": named("torch._utils._rebuild_tensor_v2") + b"}" + plain("__code__")
                           + plain(1) + b"sb",
    "state of a tensor": tensor() + b"}b",
    "slots of a module": named("__torch__.M") + b")\x81N}\x86b",
    "a call of a module": call("__torch__.os.system", b"MARK"),
    "a call of a dtype": call("torch.FloatStorage", plain(1)),
    "a call of what was made": b"})R",
    "a call without a tuple": named("torch.Size") + b"]R",
    "torch.load": call("torch.load", b"MARK"),
    "deep name": plain("torch._utils") + plain("_rebuild_tensor_v2.__globals__") + b"\x93",
    "numpy": call("numpy.core.multiarray._reconstruct", plain(())),
    "namespace": call("argparse.Namespace"),
    "quantised": call("torch._utils._rebuild_qtensor", plain(1)),
    "complex": tensor(kept=storage(b"torch.ComplexFloatStorage")),
    "persistent word": b"P0\n",
    "persistent module": storage(word="module"),
    "persistent list": b"]Q",
    "key of another file": tensor(kept=storage(key="../../etc/passwd")),
    "storage too small": tensor(kept=storage(count=17)),
    "storage of negative size": tensor(kept=storage(count=-1)),
    "negative offset": tensor(-1),
    "negative size": tensor(0, (-4, -4)),
    "negative stride": tensor(15, (16,), (-1,)),
    "beyond the end": tensor(1),
    "stride beyond the end": tensor(0, (2, 2), (15, 1)),
    "stride beyond all numbers": tensor(0, (2, 2), (2**62, 2**62)),
    "size beyond all numbers": tensor(0, (2**64,), (1,)),
    "blown up": tensor(0, (2**40,), (0,)),
    "empty and huge": tensor(0, (0, 2**62), (0, 0)),
    "other number of strides": tensor(0, (4, 4), (1,)),
    "many dimensions": tensor(0, (1,) * 40, (1,) * 40),
    "list as shape": tensor(0, [4, 4], (4, 1)),
    "bool as offset": tensor(True),
    "text as offset": tensor("1"),
    "conjugated": call("torch._utils._rebuild_tensor_v2", storage(), plain(0), plain((4,)),
                       plain((1,)), plain(False), plain(None), plain({"conj": True})),
    "too many arguments": call("collections.OrderedDict", plain([("a", 1)])),
    "deep key": b"}" + b")" + b"\x85" * 200_000 + b"Ns",
    "huge key": b"}" + plain(2**200) + b"Ns",
    "module in itself": named("__torch__.M") + b")\x81q\x00}" + plain("a") + b"h\x00sb",
    "missing memo": b"h\x07",
    "nothing left": b"0",
    "nothing to build on": b"Nb",
    "mark left out": b"t",
    "text of no end": b"\x8d" + struct.pack("<q", 2**60),
    "bytes of no end": b"\x96" + struct.pack("<q", 2**60),
    "number of no end": b"\x8b" + struct.pack("<i", 2**31 - 1),
}  # fmt: skip


def armed(program: bytes, canary: Path) -> bytes:
    code = f"__import__('os').system('touch {canary}')"
    return program.replace(b"MARK", plain(f"touch {canary}")).replace(b"EVAL", plain(code))


@pytest.fixture
def extension():
    """Registers an extension code of the pickle module, which means os.system without its name."""
    copyreg.add_extension("os", "system", 0xF1)
    yield
    copyreg.remove_extension("os", "system", 0xF1)


@pytest.mark.parametrize("name", LIVE)
def test_the_attacks_would_work(tmp_path, extension, name):
    canary = tmp_path / "canary"
    pickle.loads(b"\x80\x04" + armed(LIVE[name], canary) + b".")
    assert canary.exists()


@FORMATS
@pytest.mark.parametrize("name", [*LIVE, *QUIET])
def test_nothing_is_executed(tmp_path, extension, write, name):
    canary = tmp_path / "canary"
    path = write(tmp_path / "weights.pth", armed((LIVE | QUIET)[name], canary))
    with pytest.raises(UserError, match="weights.pth"):
        torch_archive.read(path)
    with pytest.raises(UserError, match="weights.pth"):  # where other objects are passed over
        open_source(path)
    assert not canary.exists()


# by steps of pickles that PyTorch never writes, which end the reading anywhere
NEVER = ("instance", "object", "extension", "as an argument")


@FORMATS
@pytest.mark.parametrize("name", sorted(LIVE.keys() - NEVER))
def test_live_objects_beside_tensors_are_passed_over(tmp_path, extension, write, name):
    canary = tmp_path / "canary"
    program = b"}" + plain("state_dict") + b"}" + plain("a") + tensor() + b"ss"
    program += plain("hyper_parameters") + armed(LIVE[name], canary) + b"s"
    found = open_source(write(tmp_path / "weights.pth", program))
    assert list(found.tensors) == ["a"] and not canary.exists()


@pytest.mark.parametrize(("program", "word"), [
    (LIVE["eval"], "builtins.eval"),
    (LIVE["stack_global"], "os.system"),
    (LIVE["instance"], "INST"),
    (QUIET["namespace"], "argparse.Namespace"),
    (QUIET["quantised"], "torch._utils._rebuild_qtensor"),
    (QUIET["complex"], "torch.ComplexFloatStorage"),
    (named("x\x1b[31m.y"), r"\x1b"),
])  # fmt: skip
def test_the_message_names_what_was_asked_for(tmp_path, program, word):
    with pytest.raises(UserError) as error:
        torch_archive.read(in_zip(tmp_path / "weights.pth", armed(program, tmp_path / "canary")))
    for part in ("weights.pth", word, "nothing of it was executed", "state dict alone"):
        assert part in str(error.value)


def test_modules_that_hold_each_other_many_times(tmp_path):
    program = module = named("__torch__.M") + b")\x81"
    for n in range(40):  # each holds the one before twice: 2^40 dotted names
        before = b"q%ch%c" % (n, n)
        program += before[:2] + module + b"}(" + plain("a") + before[2:] + plain("b") + before[2:]
        program += b"ub"
    with pytest.raises(UserError, match="nested without end"):
        torch_archive.read(in_zip(tmp_path / "w.pt", program))


def test_a_memo_of_any_size_takes_no_memory(tmp_path):
    program = b"}r\xff\xff\xff\xff" + plain("a") + tensor() + b"s"
    contents = torch_archive.read(in_zip(tmp_path / "w.pth", program)).contents
    assert list(contents) == ["a"]


# Damaged files


@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: p.name)
def test_files_cut_short(tmp_path, path):
    data = path.read_bytes()
    part = tmp_path / "part"
    for n in range(20):
        part.write_bytes(data[: len(data) * n // 20])
        with pytest.raises(UserError, match="part"):
            torch_archive.read(part)


@pytest.mark.parametrize("path", SMALL, ids=lambda p: p.name)
def test_flipped_bytes(tmp_path, path):
    draw = random.Random(0)
    flipped = tmp_path / "flipped"
    for _ in range(300):
        data = bytearray(path.read_bytes())
        for _ in range(draw.choice((1, 1, 4))):
            data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        flipped.write_bytes(data)
        try:
            taken(torch_archive.read(flipped).contents, "flipped")
        except UserError as e:
            assert "flipped" in str(e)


@pytest.mark.parametrize(("data", "words"), [
    (b"", "is empty"),
    (b"\n<!DOCTYPE html><html>", "HTML page"),
    (b"version https://git-lfs.github.com/spec/v1\n", "text file that begins with 'version https"),
    (b"\x00\x01\x02", "begins with the bytes 00 01 02"),
    (pickle.dumps({"a": 1}), "of another kind"),
])  # fmt: skip
def test_other_files_are_told_apart(tmp_path, data, words):
    path = tmp_path / "weights.bin"
    path.write_bytes(data)
    assert not torch_archive.is_torch_file(path)
    with pytest.raises(UserError, match=f"weights.bin.*{words}.*Get it again"):
        torch_archive.read(path)


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(UserError, match="Cannot read.*Check the path"):
            torch_archive.read(path)


def test_zip_files_that_are_not_as_pytorch_writes_them(tmp_path):
    def fails(words):
        with pytest.raises(UserError, match=words):
            torch_archive.read(path)

    path = in_zip(tmp_path / "w.pth", tensor(), **{"byteorder": b"big"})
    fails("big-endian")
    in_zip(path, tensor(), **{"sub/data.pkl": b"N."})
    assert torch_archive.read(path).contents.shape == (4, 4)
    in_zip(path, tensor(), **{"../other/data.pkl": b"N.", "data/0": b""})
    fails("64 bytes are expected")
    in_zip(path, tensor(kept=storage(key="5")))
    fails("data/5 is missing")
    in_zip(path, b"N" * pickles.LARGEST_PICKLE)
    fails("data.pkl is larger than")
    np.savez(tmp_path / "arrays.npz", a=np.ones(2))
    path = tmp_path / "arrays.npz"
    fails("archive of NumPy")
    path = in_zip(tmp_path / "w.pth", tensor())
    data = path.read_bytes()
    path.write_bytes(data.replace(b"any/data/0", b"any/data/1", 1))  # the local name alone
    fails("not where its index says")
    path.write_bytes(data.replace(b"any/data/0", b"any/data.pkl"[:10]))
    fails("Cannot read")
    at = data.index(b"PK\x01\x02") + 6  # the version that the index says is needed: 9.9
    path.write_bytes(data[:at] + b"\x63" + data[at + 1 :])
    fails("zip file version 9.9")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("any/data.pkl", b"\x80\x02" + tensor() + b".")
    fails("compressed")
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            archive.writestr("any/data.pkl", b"\x80\x02" + tensor() + b".")
    fails("two of its entries have one name")


# State dicts

X = np.ones(2)


@pytest.mark.parametrize(("contents", "names"), [
    ({"a": X, "b.c": X}, ["a", "b.c"]),
    ({"module.a": X, "module.b": X}, ["a", "b"]),
    ({"module.a": X, "b": X}, ["module.a", "b"]),
    ({"epoch": 1, "state_dict": {"module.a": X}}, ["a"]),
    ({"model": {"a": X}, "optimizer": {"state": {}}}, ["a"]),
    ({"model_state_dict": {"a": X}, "model": "vit"}, ["a"]),
    ({"_orig_mod.module.a": X, "_orig_mod.module.b": X}, ["a", "b"]),
    ({"epoch": 1, "weights": {"a": X}}, ["a"]),
    ({"model": {"model": {"a": X}}}, ["a"]),
    ({"model": {"a": X}, "net": {"visual.class_embedding": X}}, ["visual.class_embedding"]),
    ({"one": {"class_embedding": X}, "two": {"a": X}}, ["class_embedding"]),
    ({"state_dict": {"model.visual._orig_mod.class_embedding": X, "model.logit_scale": X}},
     ["visual.class_embedding", "logit_scale"]),
    ({"_orig_mod.module.a": X, "_orig_mod.b": X}, ["module.a", "b"]),
])  # fmt: skip
def test_a_state_dict_is_found(contents, names):
    assert list(taken(contents, "file")) == names


@pytest.mark.parametrize("contents", [
    {}, [X], X, None, {"one": {"a": X}, "two": {"a": X}}, {"a": X, "epoch": 1},
    {"state_dict": {}}, {0: X}, {"optimizer": {"state": {"class_embedding": X}}},
    {"one": {"class_embedding": X}, "two": {"class_embedding": X}},
])  # fmt: skip
def test_no_state_dict_is_found(contents):
    with pytest.raises(UserError, match="weights.pth holds no state dict") as error:
        taken(contents, "weights.pth")
    for key in contents if isinstance(contents, dict) else ():
        assert repr(key) in str(error.value)


@pytest.mark.parametrize("names", [
    ("visual.module.class_embedding", "visual.class_embedding"),
    ("visual.class_embedding", "module.visual.class_embedding"),
    ("visual.class_embedding", "a", "_orig_mod.module.a"),
])  # fmt: skip
def test_no_prefix_is_dropped_that_makes_two_names_one(names):
    with pytest.raises(UserError, match="weights.pth holds .* which are one name without module"):
        taken(dict.fromkeys(names, X), "weights.pth")
