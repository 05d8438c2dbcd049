"""Training of the demo's tiny CLIP on rendered glyphs and their captions.

    python -m lift_jax.demo.pretrain --out=FOLDER [--steps=N] [--seed=0]

Every batch is drawn afresh from (seed, step). The loss is CLIP's, with one change: all pictures of
a batch that show the same character share the target of its captions. No photograph and no
handwriting is used, so LIFT still has to adapt the model from glyphs to real digits.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from lift_jax.demo import captions, glyphs
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, BackboneConfig, Vision
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.output.lines import say
from lift_jax.weights.load import load_backbone, load_tokenizer, save_backbone

BATCH = 256
LR, WARMUP, WEIGHT_DECAY = 1.5e-3, 200, 0.05
MAX_LOGIT_SCALE = np.float32(np.log(100))
TEST_SEED = 10**6  # differs from every training seed


def model_config(vocab: int) -> BackboneConfig:
    """Returns the sizes of a CLIP with about 0.95 M parameters, 2 MB in float16."""
    return BackboneConfig(
        vision=VisionConfig(resolution=glyphs.SIZE, patch=8, width=128, layers=4, heads=2, mlp=512),
        text=TextConfig(
            vocab=vocab,
            context=captions.CONTEXT,
            width=64,
            layers=2,
            heads=2,
            mlp=256,
            eot=vocab - 1,
        ),
        embed=64,
    )


def normalise(config: Vision, grey: UInt8[Array, "n h w"]) -> Float[Array, "n h w 3"]:
    """Returns grey pictures as RGB, normalised by the mean and standard deviation of the tower."""
    rgb = jnp.repeat(grey[..., None].astype(jnp.float32) / 255, 3, axis=-1)
    return (rgb - jnp.asarray(config.mean)) / jnp.asarray(config.std)


def similarities(
    clip: Backbone, grey: UInt8[Array, "n h w"], tokens: Int[Array, "m t"]
) -> Float[Array, "n m"]:
    """Returns CLIP's logits: the scaled cosine of every picture with every text."""
    assert clip.logit_scale is not None
    images = clip.encode_image(normalise(clip.config.vision, grey), project=True)
    texts = clip.encode_text(tokens, project=True)
    images /= jnp.linalg.norm(images, axis=1, keepdims=True)
    texts /= jnp.linalg.norm(texts, axis=1, keepdims=True)
    return jnp.exp(jnp.minimum(clip.logit_scale[...], MAX_LOGIT_SCALE)) * images @ texts.T


def contrastive(logits: Float[Array, "n n"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """Returns CLIP's symmetric cross-entropy; pairs with equal labels share the target evenly."""
    same = (labels[:, None] == labels[None]).astype(jnp.float32)
    target = same / same.sum(1, keepdims=True)
    to_text = optax.softmax_cross_entropy(logits, target).mean()
    to_image = optax.softmax_cross_entropy(logits.T, target).mean()
    return (to_text + to_image) / 2


def caption_table(folder: Path) -> list[np.ndarray]:
    """Returns, for each character, the tokens of all its captions."""
    tokenize = load_tokenizer(folder, captions.CONTEXT)
    return [tokenize(captions.captions(character)) for character in glyphs.CHARACTERS]


def batch(seed: int, step: int, size: int, table: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Returns pictures, the tokens of one caption for each, and labels, drawn from (seed, step)."""
    rng = np.random.default_rng((seed, step))
    labels = glyphs.draw_labels(rng, size)
    # A third of all captions have the usual name in the usual prompt.
    usual = rng.random(size) < 1 / 3
    which = [0 if u else rng.integers(len(table[y])) for u, y in zip(usual, labels, strict=True)]
    tokens = np.stack([table[y][i] for y, i in zip(labels, which, strict=True)])
    return glyphs.render(rng, labels), tokens, labels


def accuracy(clip: Backbone, table: list[np.ndarray], count: int = 2000) -> float:
    """Returns the zero-shot accuracy in percent on `count` digits rendered from `TEST_SEED`."""
    rng = np.random.default_rng(TEST_SEED)
    labels = np.arange(count, dtype=np.int32) % len(glyphs.DIGITS)
    prompts = np.stack([rows[0] for rows in table[: len(glyphs.DIGITS)]])
    graph, weights = tree.split(clip)
    compare = jax.jit(lambda w, grey, tokens: similarities(tree.merge(graph, w), grey, tokens))
    logits = compare(weights, glyphs.render(rng, labels), prompts)
    return 100 * float((np.asarray(logits).argmax(1) == labels).mean())


def pretrain(folder: Path, steps: int, seed: int, size: int = BATCH) -> None:
    """Trains the model; writes its weights (float16), sizes and tokenizer to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = captions.train_tokenizer()
    captions.save_tokenizer(tokenizer, folder)
    table = caption_table(folder)

    clip = Backbone(model_config(tokenizer.get_vocab_size()), rngs=nnx.Rngs(seed))
    graph, weights = tree.split(clip)
    schedule = optax.warmup_cosine_decay_schedule(0, LR, min(WARMUP, steps // 2), steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            schedule,
            b2=0.98,
            weight_decay=WEIGHT_DECAY,
            mask={path: leaf.ndim > 1 for path, leaf in weights.items()},
        ),
    )
    moments = optimizer.init(weights)

    def loss_of(weights: tree.Tree, grey: Array, tokens: Array, labels: Array) -> Array:
        return contrastive(similarities(tree.merge(graph, weights), grey, tokens), labels)

    @jax.jit
    def update(weights, moments, grey, tokens, labels):
        loss, gradient = jax.value_and_grad(loss_of)(weights, grey, tokens, labels)
        change, moments = optimizer.update(gradient, moments, weights)
        return optax.apply_updates(weights, change), moments, loss

    start = time.monotonic()
    for step in range(steps):
        weights, moments, loss = update(weights, moments, *batch(seed, step, size, table))
        if step % 100 == 99 or step == steps - 1:
            seconds = time.monotonic() - start
            say(f"step {step + 1} loss {float(loss):.3f}, {seconds:.0f} s")

    save_backbone(tree.merge(graph, weights), folder, np.float16)


def main(arguments: list[str] | None = None) -> None:
    """Runs `python -m lift_jax.demo.pretrain`."""
    parser = argparse.ArgumentParser(
        prog="python -m lift_jax.demo.pretrain", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--steps", default=900, type=int, help=f"steps of {BATCH} pictures")
    parser.add_argument("--seed", default=0, type=int, help="seed of weights and pictures")
    flags = parser.parse_args(arguments)
    if flags.steps < 1 or flags.seed < 0:
        parser.error("expected --steps of at least 1 and --seed of at least 0")
    pretrain(flags.out, flags.steps, flags.seed)
    right = accuracy(load_backbone(flags.out), caption_table(flags.out))
    say(f"zero-shot on rendered digits: {right:.1f} %")


if __name__ == "__main__":
    main()
