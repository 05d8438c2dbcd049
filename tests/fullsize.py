"""Random backbones of the published sizes in the layouts of their sources, and the cost of loading.

    python tests/fullsize.py FOLDER

writes each source, loads it twice and prints time and memory. It fails if loading takes more memory
than the limit.
"""

import argparse
import json
import pickle
import shutil
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from flax import nnx  # noqa: E402

from lift_jax.models.backbone import BackboneConfig  # noqa: E402
from lift_jax.models.resnet import ResNetConfig  # noqa: E402
from lift_jax.models.text import TextConfig  # noqa: E402
from lift_jax.models.vit.config import CLIP_MEAN, CLIP_STD, VisionConfig  # noqa: E402
from lift_jax.weights import load, rename  # noqa: E402
from lift_jax.weights.files.source import Source  # noqa: E402
from lift_jax.weights.formats import huggingface, openai, written  # noqa: E402

B16 = BackboneConfig(
    VisionConfig(224, 16, 768, 12, 12, 3072), TextConfig(49408, 77, 512, 12, 8, 2048), 512
)
L14 = BackboneConfig(
    VisionConfig(224, 14, 1024, 24, 16, 4096), TextConfig(49408, 77, 768, 12, 12, 3072), 768
)
RN50 = BackboneConfig(
    ResNetConfig(
        224, 1024, 64, (64, 128, 256, 512), (3, 4, 6, 3), heads=32, mean=CLIP_MEAN, std=CLIP_STD
    ),
    TextConfig(49408, 77, 512, 12, 8, 2048), 1024, projections=("text",),
)  # fmt: skip
SIZES = {"b16": B16, "l14": L14, "rn50": RN50}
PARAMETERS = {"b16": 149_620_737, "l14": 427_616_513, "rn50": 102_007_137}  # as published


def parameters(config: BackboneConfig) -> int:
    """Returns the number of trainable parameters of a backbone, without running statistics."""
    leaves = load.abstract(config).values()
    return sum(int(np.prod(leaf.shape)) for leaf in leaves if isinstance(leaf, nnx.Param))


def random_weights(config: BackboneConfig, form, dtype) -> dict[str, np.ndarray]:
    """Returns random weights with the names and layouts of a format."""
    rng = np.random.default_rng(0)
    # one draw is repeated, because drawing all values is slow
    noise = (rng.normal(size=2**20) * 0.02 + 0.05).astype(dtype)
    arrays = {p: np.resize(noise, leaf.shape) for p, leaf in load.abstract(config).items()}
    return rename.to_theirs(arrays, form.table(_named_as(config)))


def _named_as(config: BackboneConfig) -> Source:
    """Returns a source with the number of blocks of the tower, which is all that a table needs."""
    if isinstance(config.vision, VisionConfig):
        return Source(Path(), "made up")
    names = [
        f"visual.layer{stage}.{i}.conv1.weight"
        for stage, layers in enumerate(config.vision.layers, 1)
        for i in range(layers)
    ]
    return Source(Path(), "made up", tensors=dict.fromkeys(names, np.zeros(0)))


# -- PyTorch's files, written without PyTorch


class _Storage:
    def __init__(self, key: str, array: np.ndarray):
        self.key, self.array = key, array


class _Tensor:
    def __init__(self, storage: _Storage):
        self.storage = storage

    def __reduce__(self):
        array = self.storage.array
        strides = tuple(s // array.itemsize for s in array.strides)
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (self.storage, 0, array.shape, strides, False, OrderedDict())


@contextmanager
def _fake_torch() -> Iterator[None]:
    """Provides the modules that PyTorch's pickles name, because pickle imports them to write."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*args): ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = (
        "torch._utils",
        "_rebuild_tensor_v2",
    )
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        yield
    finally:
        del sys.modules["torch"], sys.modules["torch._utils"]


def save_torch(contents: Mapping[str, Any], path: Path) -> None:
    """Writes a dict as torch.save does, with tensors in place of its arrays at any depth."""
    kinds = {
        "float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage",
        "bfloat16": "BFloat16Storage",
    }  # fmt: skip

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, _Storage):
                return None
            kind = getattr(sys.modules["torch"], kinds[obj.array.dtype.name])
            return "storage", kind, obj.key, "cpu", obj.array.size

    storages: list[_Storage] = []

    def tensors(value: Any) -> Any:
        if isinstance(value, Mapping):
            return OrderedDict((key, tensors(inner)) for key, inner in value.items())
        if not isinstance(value, np.ndarray):
            return value
        storages.append(_Storage(str(len(storages)), value))
        return _Tensor(storages[-1])

    with zipfile.ZipFile(path, "w") as archive, _fake_torch():
        with archive.open("archive/data.pkl", "w") as file:
            Pickler(file, 2).dump(tensors(contents))
        archive.writestr("archive/byteorder", "little")
        for storage in storages:
            data = np.ascontiguousarray(storage.array).reshape(-1).view(np.uint8).data
            with archive.open(f"archive/data/{storage.key}", "w", force_zip64=True) as file:
                file.write(data)
        archive.writestr("archive/version", "3\n")


# -- sources


def openai_pt(config: BackboneConfig, folder: Path) -> Path:
    save_torch(random_weights(config, openai, np.float16), folder / "clip.pt")
    return folder / "clip.pt"


def openai_safetensors(config: BackboneConfig, folder: Path) -> Path:
    arrays = random_weights(config, openai, np.float32)
    safetensors.numpy.save_file(arrays, folder / "clip.safetensors")
    return folder / "clip.safetensors"


def hugging_face(config: BackboneConfig, folder: Path) -> Path:
    arrays = {p: np.zeros(v.shape, np.float32) for p, v in load.abstract(config).items()}
    written.save(folder, config, arrays)
    arrays = random_weights(config, huggingface, np.float32)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    return folder


def hugging_face_bin(config: BackboneConfig, folder: Path) -> Path:
    hugging_face(config, folder)
    (folder / "model.safetensors").unlink()
    save_torch(random_weights(config, huggingface, np.float32), folder / "pytorch_model.bin")
    return folder


def open_clip(config: BackboneConfig, folder: Path) -> Path:
    v, t = config.vision, config.text
    assert t is not None
    tower = (
        {"layers": v.layers, "width": v.stem}
        if isinstance(v, ResNetConfig)
        else {"layers": v.layers, "width": v.width, "patch_size": v.patch}
    )
    text = {
        "context_length": t.context, "vocab_size": t.vocab, "width": t.width, "heads": t.heads,
        "layers": t.layers,
    }  # fmt: skip
    model = {
        "embed_dim": config.embed, "vision_cfg": {"image_size": v.resolution} | tower,
        "text_cfg": text, "quick_gelu": True,
    }  # fmt: skip
    about = {"model_cfg": model, "preprocess_cfg": {"mean": list(v.mean), "std": list(v.std)}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    arrays = random_weights(config, openai, ml_dtypes.bfloat16)
    save_torch(arrays, folder / "open_clip_pytorch_model.bin")
    return folder


LAYOUTS: dict[str, Callable[[BackboneConfig, Path], Path]] = {
    "openai_pt": openai_pt,
    "openai_safetensors": openai_safetensors,
    "hugging_face": hugging_face,
    "hugging_face_bin": hugging_face_bin,
    "open_clip": open_clip,
}

MEASURE = r"""
import json, re, sys, time
import jax
import lift_jax
from lift_jax.models import tree
start = time.perf_counter()
backbone = lift_jax.load_backbone(sys.argv[1])
leaves = jax.block_until_ready([leaf[...] for leaf in tree.flatten(backbone)[1].values()])
print(json.dumps({
    "seconds": time.perf_counter() - start,
    # of this process alone: getrusage also counts the process that started it
    "peak": int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) * 1024,
    "bytes": sum(leaf.nbytes for leaf in leaves),
}))
"""


def cost(source: Path) -> dict[str, float]:
    """Loads a source in a new process; returns seconds, peak resident bytes and array bytes."""
    command = [sys.executable, "-c", MEASURE, str(source)]
    # stderr is not captured, so that a failure shows its message
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def limit(found: Mapping[str, float]) -> float:
    """Returns the most memory in bytes: 1.3 times the arrays, and 300 MB for the program."""
    return 1.3 * found["bytes"] + 300e6


def write(size: str, layout: str, folder: Path) -> Path:
    """Writes a source and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    return LAYOUTS[layout](SIZES[size], folder)


def main(folder: Path) -> bool:
    """Measures every source. Returns True if each is loaded within its limit."""
    high = False
    for size, config in SIZES.items():
        for layout in LAYOUTS:
            if isinstance(config.vision, ResNetConfig) and layout.startswith("hugging"):
                continue
            place = folder / f"{size}_{layout}"
            source = write(size, layout, place)
            for time in ("first", "cached"):
                found = cost(source)
                high |= found["peak"] >= limit(found)
                print(
                    f"{size:5} {layout:19} {time:6} {found['seconds']:5.1f} s, peak "
                    f"{found['peak'] / 1e6:5.0f} MB of {limit(found) / 1e6:5.0f} MB allowed",
                    flush=True,
                )
            shutil.rmtree(place)
    return not high


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--write", nargs=2, metavar=("SIZE", "LAYOUT"), help="only write this one, print its path"
    )
    flags = parser.parse_args()
    if flags.write:
        print(write(*flags.write, flags.folder))
    elif not main(flags.folder):
        sys.exit("error: more memory than allowed")
