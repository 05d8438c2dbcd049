"""Tests of CLIP's ResNet in OpenAI's naming, and of the towers of both kinds of ResNet."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from support.paths import GOLDEN
from support.towers import close

import lift_jax
from lift_jax.errors import UserError
from lift_jax.evaluation import forward
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, BackboneConfig, Classifier
from lift_jax.models.heads import CosineHead
from lift_jax.models.resnet import BatchNorm, ResNet, ResNetConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.parallel import mesh
from lift_jax.weights import rename
from lift_jax.weights.files.source import open_source
from lift_jax.weights.formats import openai

FILE = GOLDEN / "clip_rn.safetensors"
CLIP = ResNetConfig(64, 48, 8, (8, 16, 32, 64), (1, 1, 1, 1), heads=4)
PLAIN = ResNetConfig(64, 128, 16, (4, 8, 8, 32), (1, 2, 1, 1))


def random_tower(config: ResNetConfig):
    """Returns a tower's graph and random leaves, drawn by NumPy: nothing needs compiling."""
    rng = np.random.default_rng(0)
    graph, leaves = tree.flatten(nnx.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0))))
    arrays = {}
    for path, leaf in leaves.items():
        if path.endswith("kernel"):
            values = rng.normal(size=leaf.shape) * (2 / np.prod(leaf.shape[:-1])) ** 0.5
        else:
            values = np.full(leaf.shape, path.endswith(("scale", "var")))
        arrays[path] = jnp.asarray(values, jnp.float32)
    return graph, arrays


def normalised(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.slow
def test_clip_resnet(golden):
    expected = golden("clip_rn")
    clip = lift_jax.load_backbone(FILE)  # the file's metadata has the numbers of heads
    images = forward.normalise(jnp.asarray(expected["images_u8"]), clip.config.vision)
    close(jax.jit(clip.visual.maps)(images), expected["layer4"])
    image = jax.jit(clip.encode_image)(images)
    close(image, expected["image_features"])
    # its features lie in the shared space without a projection
    assert np.array_equal(image, jax.jit(lambda x: clip.encode_image(x, project=True))(images))
    text = clip.encode_text(expected["tokens"], project=True)
    close(text, expected["text_features"])
    close(normalised(text), expected["semantic_weight"])
    scale = np.exp(clip.logit_scale[...])
    close(scale * normalised(image) @ normalised(text).T, expected["logits"])


@pytest.mark.slow
def test_clip_resnet_from_torch(golden):
    expected = golden("torch/clip_rn")
    clip = lift_jax.load_backbone(GOLDEN / "torch" / "clip_rn.pth", text_heads=2)
    close(jax.jit(clip.visual.maps)(expected["images"]), expected["layer4"])
    image = jax.jit(clip.encode_image)(expected["images"])
    close(image, expected["image_features"])
    text = clip.encode_text(expected["tokens"], project=True)
    close(text, expected["text_features"])
    scale = np.exp(clip.logit_scale[...])
    close(scale * normalised(image) @ normalised(text).T, expected["logits"])


def test_heads_by_the_rule_and_by_keyword(tmp_path):
    safetensors.numpy.save_file(safetensors.numpy.load_file(FILE), tmp_path / "bare.safetensors")
    config = lift_jax.load_backbone(tmp_path / "bare.safetensors").config
    assert (config.vision.heads, config.text.heads) == (4, 1)
    given = lift_jax.load_backbone(FILE, heads=8, text_heads=2, eps=1e-3, activation="gelu").config
    assert (given.vision.heads, given.text.heads) == (8, 2)
    assert (given.text.eps, given.text.activation) == (1e-3, "gelu")


@pytest.mark.parametrize(("sizes", "words"), [
    ({"heads": 3}, "width 256 is not a multiple of heads=3"),
    ({"text_heads": 0}, "width 64 is not a multiple of text_heads=0"),
    ({"activation": "relu"}, "Unknown activation 'relu'.*quick_gelu"),
])  # fmt: skip
def test_wrong_sizes(sizes, words):
    with pytest.raises(UserError, match=words):
        lift_jax.load_backbone(FILE, **sizes)


CONV = "visual.layer2.0.conv2.weight"
NORM = "visual.layer3.0.bn3.running_var"
POOL = "visual.attnpool.c_proj.weight"


@pytest.mark.parametrize(("change", "words"), [
    (lambda a: a.pop(CONV), ["missing", CONV]),
    (lambda a: a.pop(NORM), ["missing", NORM]),
    (lambda a: a.pop("visual.conv3.weight"), ["expected visual.conv3.weight with 4 axes"]),
    (lambda a: a.pop("visual.layer4.0.conv1.weight"), ["ResNet in OpenAI's naming", "layer4.0"]),
    (lambda a: a.update({"visual.layer1.0.se.weight": np.ones(3)}), ["unexpected", "layer1.0.se"]),
    (lambda a: a.update({"visual.layer1.1.conv1.weight": a["visual.layer1.0.conv1.weight"]}),
     ["missing", "layer1.1.bn1.weight", "and 2 more", "wrong shape", "expected (8, 32, 1, 1)"]),
    (lambda a: a.update({CONV: a[CONV][:, :-1].copy()}), ["wrong shape", CONV, "(16, 15, 3, 3)"]),
    (lambda a: a.update({POOL: a[POOL].T.copy()}), ["wrong shape", POOL, "found (256, 48)"]),
    (lambda a: a.update({NORM: np.full_like(a[NORM], np.nan)}), ["not finite", NORM]),
])  # fmt: skip
def test_wrong_weights_are_named(tmp_path, change, words):
    arrays = safetensors.numpy.load_file(FILE)
    change(arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError) as error:
        lift_jax.load_backbone(tmp_path / "wrong.safetensors")
    for word in words:
        assert word in str(error.value)


def test_renamed_back_it_is_the_same_file():
    source = open_source(FILE)
    _, leaves = tree.flatten(lift_jax.load_backbone(FILE))
    arrays = {path: np.asarray(leaf[...]) for path, leaf in leaves.items()}
    again = rename.to_theirs(arrays, openai.table(source))
    assert again.keys() == source.tensors.keys()
    for name, array in source.tensors.items():
        assert np.array_equal(again[name], array), name


def test_another_resolution():
    clip = lift_jax.load_backbone(FILE, resolution=96)
    assert clip.visual.pool.positions[...].shape == (10, 256)
    features = jax.jit(clip.encode_image)(np.ones((2, 96, 96, 3), np.float32))
    assert features.shape == (2, 48) and np.isfinite(features).all()
    with pytest.raises(ValueError, match=r"\[n, 96, 96, 3\], found \(2, 64, 64, 3\)"):
        clip.encode_image(np.ones((2, 64, 64, 3), np.float32))
    with pytest.raises(UserError, match="multiple of 32"):
        lift_jax.load_backbone(FILE, resolution=80)


def test_a_plain_resnet_takes_any_size():
    tower = jax.jit(tree.merge(*random_tower(PLAIN)))
    for size in (64, 47):
        assert tower(jnp.ones((2, size, size, 3))).shape == (2, 128)


def test_batch_norm_by_hand():
    norm = BatchNorm(2)
    norm.mean[...], norm.var[...] = jnp.array([1.0, -1.0]), jnp.array([4.0, 0.25]) - 1e-5
    norm.scale[...], norm.bias[...] = jnp.array([3.0, 1.0]), jnp.array([0.5, 0.0])
    np.testing.assert_allclose(norm(jnp.array([[3.0, 0.0], [1.0, 1.0]])), [[3.5, 2], [0.5, 4]])


WIDER = ResNetConfig(96, 128, 64, (16, 32, 64, 128), (2, 2, 2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("config", [CLIP, PLAIN, WIDER])
def test_the_dtype_is_that_of_the_weights(config):
    graph, arrays = random_tower(config)
    size = (4, config.resolution, config.resolution, 3)
    images = jnp.asarray(np.random.default_rng(0).normal(size=size), jnp.float32)
    tower = jax.jit(lambda arrays: tree.merge(graph, arrays)(images))
    found = tower({path: array.astype(jnp.bfloat16) for path, array in arrays.items()})
    exact = tower(arrays)
    assert found.dtype == jnp.bfloat16
    assert np.abs(found.astype(jnp.float32) - exact).max() < 0.05 * np.abs(exact).max()


def lowered(config: ResNetConfig):
    """Returns a classifier's graph and leaves on all devices, and images of three crops each."""
    tower = tree.merge(*random_tower(config))
    model = Classifier(tower, CosineHead(jnp.ones((5, config.width))))
    graph, leaves = tree.flatten(model)
    devices = mesh.make_mesh()
    everywhere = mesh.replicated(devices)
    arrays = {path: jax.device_put(leaf[...], everywhere) for path, leaf in leaves.items()}
    images = np.random.default_rng(0).integers(0, 256, (16, 3, 64, 64, 3), np.uint8)
    return graph, arrays, mesh.put_batch(devices, {"image": images})


@pytest.mark.slow
@pytest.mark.parametrize("config", [CLIP, PLAIN])
def test_crops_stay_on_their_devices(config):
    """Checks that no image is gathered, as a convolution under vmap would do."""
    graph, leaves, batch = lowered(config)
    predict = jax.jit(forward.make_predict(graph, config))
    text = predict.lower(leaves, batch).compile().as_text()
    assert "convolution" in text
    assert not re.search(r"all-gather|all-to-all|all-reduce|collective-permute", text)
    one = jax.jit(lambda image: tree.merge(graph, leaves).embed(forward.normalise(image, config)))
    crops = np.stack([one(batch["image"][:, k]) for k in range(3)])
    found = predict(leaves, batch)
    close(found, tree.merge(graph, leaves).head.classify(jnp.asarray(crops.mean(0))))


@pytest.mark.slow
@pytest.mark.parametrize("config", [CLIP, PLAIN])
def test_gradients_are_reduced_and_nothing_else_moves(config):
    graph, leaves, batch = lowered(config)

    def loss(leaves, batch):
        images = forward.normalise(batch["image"][:, 0], config)
        return (tree.merge(graph, leaves)(images) ** 2).mean()

    gradient = jax.jit(jax.grad(loss), out_shardings=mesh.replicated(mesh.make_mesh()))
    text = gradient.lower(leaves, batch).compile().as_text()
    assert "all-reduce" in text
    assert not re.search(r"all-gather|all-to-all|collective-permute", text)


def vit(patch: int, width: int, layers: int, resolution: int = 224) -> VisionConfig:
    return VisionConfig(resolution, patch, width, layers, width // 64, 4 * width)


def clip_resnet(resolution: int, embed: int, stem: int, *layers: int) -> ResNetConfig:
    channels = (stem, 2 * stem, 4 * stem, 8 * stem)
    return ResNetConfig(resolution, embed, stem, channels, layers, heads=stem * 32 // 64)


@pytest.mark.slow
@pytest.mark.parametrize(("vision", "embed", "text_width", "published"), [
    (clip_resnet(224, 1024, 64, 3, 4, 6, 3), 1024, 512, 102_007_137),
    (clip_resnet(224, 512, 64, 3, 4, 23, 3), 512, 512, 119_688_033),
    (clip_resnet(288, 640, 80, 4, 6, 10, 6), 640, 640, 178_300_601),
    (clip_resnet(384, 768, 96, 6, 8, 18, 8), 768, 768, 290_979_217),
    (vit(32, 768, 12), 512, 512, 151_277_313),
    (vit(16, 768, 12), 512, 512, 149_620_737),
    (vit(14, 1024, 24), 768, 768, 427_616_513),
    (vit(14, 1024, 24, 336), 768, 768, 427_944_193),
])  # fmt: skip
def test_published_numbers_of_parameters(vision, embed, text_width, published):
    text = TextConfig(49408, 77, text_width, 12, text_width // 64, 4 * text_width)
    projections = ("text",) if isinstance(vision, ResNetConfig) else ("image", "text")
    config = BackboneConfig(vision, text, embed, projections)
    assert parameters(Backbone, config) == published


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "published"), [
    ((3, 4, 6, 3), 25_557_032), ((3, 4, 23, 3), 44_549_160), ((3, 8, 36, 3), 60_192_808),
])  # fmt: skip
def test_published_numbers_of_plain_resnets(layers, published):
    config = ResNetConfig(224, 2048, 64, (64, 128, 256, 512), layers)
    assert parameters(ResNet, config) == published - 2049 * 1000  # without the classifier


def parameters(kind, config) -> int:
    _, leaves = tree.flatten(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))
    return sum(int(np.prod(v.shape)) for v in leaves.values() if isinstance(v, nnx.Param))
