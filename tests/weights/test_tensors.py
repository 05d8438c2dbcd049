"""Tests of files of tensors: their bytes, and what the library reads from them."""

import itertools

import numpy as np
import safetensors
import safetensors.numpy

from lift_jax.storage.formats.tensors import write_tensors


def test_bytes_do_not_depend_on_order(tmp_path):
    arrays = {"b": np.arange(3, dtype=np.float32), "a": np.ones((2, 5), np.float16)}
    about = {"kind": "cosine", "class_names": '["é", "x"]', "scale": "25"}
    contents = set()
    for items in itertools.permutations(about.items()):
        write_tensors(tmp_path / "t", arrays, dict(items))
        contents.add((tmp_path / "t").read_bytes())
    (content,) = contents
    assert int.from_bytes(content[:8], "little") % 8 == 0
    with safetensors.safe_open(tmp_path / "t", "numpy") as file:
        assert file.metadata() == about
    found = safetensors.numpy.load(content)
    assert {k: (v.dtype, v.tolist()) for k, v in found.items()} == {
        k: (v.dtype, v.tolist()) for k, v in arrays.items()
    }
