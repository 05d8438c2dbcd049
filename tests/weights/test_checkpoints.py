"""Tests of checkpoints as training scripts leave them: wrapped, nested, beside other objects."""

import json
import shutil
from argparse import Namespace
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import safetensors.numpy
from fullsize import save_torch
from support.paths import GOLDEN

import lift_jax
from lift_jax.errors import UserError
from lift_jax.weights import conversion
from lift_jax.weights.files.source import open_source

CLIP, HF = "clip_openai.safetensors", "clip_hf/model.safetensors"


def stored(name):
    return safetensors.numpy.load_file(GOLDEN / name)


def under(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def read(path: Path):
    """Returns (tensors, notes) of a source, of which a format reads the sizes."""
    source = open_source(path)
    conversion.read_sizes(source, conversion.format_of(source))
    return source.tensors, source.notes


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


MOMENTS = {"state": {0: {"step": np.ones(1, np.float32), "exp_avg": np.ones(2, np.float32)}}}
# what training leaves beside a state dict, also objects that no tensor needs
LIGHTNING = {
    "epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.5.0", "loops": {"fit_loop": {}},
    "callbacks": {("a", 1): PurePosixPath("a")}, "optimizer_states": [MOMENTS],
    "lr_schedulers": [{"last_epoch": 3}], "hparams_name": "kwargs",
    "hyper_parameters": {"data": PurePosixPath("/data"), "sizes": {1, 2}, "args": Namespace(lr=1)},
}  # fmt: skip
TRAINER = {
    "epoch": 3, "best_acc1": np.float64(76.5), "optimizer": MOMENTS, "scaler": {"scale": 65536.0},
    "arch": "vit", "counts": defaultdict(dict, a={}), "args": Namespace(lr=0.1),
}  # fmt: skip

# (keys, prefix, what lies beside, the note)
CHECKPOINTS = [
    ((), "module.", {}, "Read without the prefix 'module.'."),
    ((), "_orig_mod.", {}, "Read without the prefix '_orig_mod.'."),
    ((), "module._orig_mod.model.", {}, "Read without the prefix 'module._orig_mod.model.'."),
    ((), "net.encoder_of_mine.", {}, "Read without the prefix 'net.encoder_of_mine.'."),
    (("state_dict",), "module.", TRAINER, "Read from 'state_dict', without the prefix 'module.'."),
    (("model",), "", TRAINER, "Read from 'model'."),
    (("model_state_dict",), "module.", TRAINER, "Read from 'model_state_dict', without"),
    (("model_ema",), "module.", TRAINER, "Read from 'model_ema', without the prefix 'module.'."),
    (("state_dict_ema",), "", TRAINER, "Read from 'state_dict_ema'."),
    (("state_dict",), "model.", LIGHTNING, "Read from 'state_dict', without the prefix 'model.'."),
    (("state_dict",), "model._orig_mod.", LIGHTNING, "without the prefix 'model._orig_mod.'."),
    (("checkpoint", "model"), "", TRAINER, "Read from 'checkpoint.model'."),
]  # fmt: skip


@pytest.mark.parametrize("name", [CLIP, HF])
@pytest.mark.parametrize(("keys", "prefix", "beside", "note"), CHECKPOINTS)
def test_a_checkpoint_is_read(tmp_path, keys, prefix, beside, note, name):
    expected = {k: np.array(a, order="C") for k, a in stored(name).items()}
    contents = under(prefix, expected)
    for key in reversed(keys):
        contents = {**beside, key: contents}
    save_torch(contents, tmp_path / "last.ckpt")
    if name == HF:
        shutil.copy(GOLDEN / "clip_hf" / "config.json", tmp_path)
    for path in (tmp_path, tmp_path / "last.ckpt"):
        found, notes = read(path)
        same(found, expected)
        assert note in " ".join(notes)


def test_a_plain_file_gets_no_note():
    for name in (CLIP, "clip_hf", "torch/clip_vit.pt", "torch/hf_sharded", "open_clip"):
        assert open_source(GOLDEN / name).notes == ()


def test_of_several_state_dicts_it_is_said_which(tmp_path):
    tower = stored(CLIP)
    other = {name: np.asarray(array + 1) for name, array in tower.items()}
    save_torch(TRAINER | {"state_dict_ema": other, "state_dict": tower}, tmp_path / "a.pth")
    found, notes = read(tmp_path / "a.pth")
    same(found, tower)
    assert "several state dicts (state_dict, state_dict_ema): state_dict is taken." in notes[0]
    assert "For another, save it alone." in notes[0]
    save_torch({"head": {"weight": np.ones(2, np.float32)}, "mine": tower}, tmp_path / "b.pth")
    found, notes = read(tmp_path / "b.pth")
    same(found, tower)
    assert notes == ("Read from 'mine'.",)
    save_torch({"left": tower, "right": other}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"found several \(left, right\).* Save the state dict of"):
        read(tmp_path / "c.pth")


def test_wrapped_parts_of_a_model(tmp_path):
    expected = stored(CLIP)
    wrapped = {name.replace(".resblocks.", "._orig_mod.resblocks."): a for name, a in
               expected.items()}  # fmt: skip
    wrapped = {name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."): a for name, a in
               wrapped.items()}  # fmt: skip
    assert wrapped.keys() != expected.keys()
    safetensors.numpy.save_file(under("module.", wrapped), tmp_path / "a.safetensors")
    same(read(tmp_path / "a.safetensors")[0], expected)


@pytest.mark.parametrize("kind", ["whole", "shards", "bin", "fsdp"])
def test_a_folder_of_accelerate(tmp_path, kind):
    """Weights with usual names and without a config, beside what training needs to go on."""
    expected = {k: np.array(a, order="C") for k, a in stored(CLIP).items()}
    wrapped = under("module.", expected)
    for name in ("optimizer.bin", "scheduler.bin", "scaler.pt", "training_args.bin"):
        save_torch(MOMENTS, tmp_path / name)
    (tmp_path / "random_states_0.pkl").write_bytes(b"\x80\x02N.")
    if kind == "whole":
        safetensors.numpy.save_file(wrapped, tmp_path / "model.safetensors")
    elif kind in ("bin", "fsdp"):
        save_torch(wrapped, tmp_path / f"pytorch_model{'_fsdp' * (kind == 'fsdp')}.bin")
    else:
        names = sorted(wrapped)
        shards = {"a.safetensors": names[:10], "b.safetensors": names[10:]}
        for shard, held in shards.items():
            safetensors.numpy.save_file({n: wrapped[n] for n in held}, tmp_path / shard)
        index = {"weight_map": {n: shard for shard, held in shards.items() for n in held}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found, notes = read(tmp_path)
    same(found, expected)
    assert notes == ("Read without the prefix 'module.'.",)


def test_a_whole_model_is_refused_by_its_name(tmp_path):
    save_torch({"model": PurePosixPath("a"), "epoch": 1}, tmp_path / "a.pt")
    with pytest.raises(
        UserError, match="no state dict.* It holds 'pathlib.*nothing of it was exec"
    ):
        lift_jax.load_backbone(tmp_path / "a.pt")
