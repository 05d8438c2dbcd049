"""Tests of decoding the upper rows of a JPEG alone: the same pixels, and the same faults."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from lift_jax.data.images import decode, upper
from lift_jax.errors import UserError

SIZE = 75, 52  # height and width: neither divides by the 16 of a block


def encoded(mode="RGB", **options):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (19, 13, 3), np.uint8))
    stream = io.BytesIO()
    noise.resize(SIZE[::-1]).convert(mode).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def shown(content, box=(3, 5, 43, 45)):
    return decode.open_image(content, "a name").resized(box, (20, 20), "bicubic")


@pytest.mark.parametrize("options", [
    {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"optimize": True}, {"mode": "L"},
    {"comment": b"\xff\xda\xff\xc0", "exif": b"Exif\0\0"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("smooth", [True, False])
def test_each_number_of_rows(options, smooth):
    content = encoded(**options)
    how = {"fastupsample": not smooth}
    whole = simplejpeg.decode_jpeg(content, "RGB", **how)
    for rows in range(1, 66):
        found = upper.decode(content, SIZE, rows, "RGB", **how)
        assert found.shape == whole.shape
        kept = rows + 2  # where a box ends may be rounded to the row below
        assert np.array_equal(found[:kept], whole[:kept]), rows
    assert all(upper.decode(content, SIZE, rows, "RGB") is None for rows in (67, 75))


def test_other_sorts_are_decoded_whole():
    content = encoded()
    sorts = encoded(progressive=True), encoded(restart_marker_rows=1), b"\xff\xd8"
    for other in (*sorts, content.replace(b"\xff\xc0", b"\xff\xc1")):
        assert upper.decode(other, SIZE, 20, "RGB") is None
    frame = content.index(b"\xff\xc0") + 9  # one scan of three is not the whole image
    assert upper.decode(content[:frame] + b"\4" + content[frame + 1 :], SIZE, 20, "RGB") is None
    for other in sorts[:2]:
        assert np.array_equal(shown(other), shown_by_pillow(other))


def shown_by_pillow(content, box=(3, 5, 43, 45)):
    part = Image.open(io.BytesIO(content)).convert("RGB").crop(box)
    return np.asarray(part.resize((20, 20), Image.Resampling.BICUBIC))


def test_a_view_of_the_upper_rows_is_pillows(monkeypatch):
    content, found = encoded(), []
    whole = upper.decode
    monkeypatch.setattr(upper, "decode", lambda *a, **k: found.append(whole(*a, **k)) or found[-1])
    assert np.array_equal(shown(content), shown_by_pillow(content))
    assert found[0] is not None


def test_a_file_cut_short_is_a_fault_also_below_the_crop():
    content = encoded()
    for end in (len(content) - 2, len(content) - 20, len(content) * 3 // 4):
        with pytest.raises(UserError, match="a name"):
            shown(content[:end])


def test_damage_leaves_the_pixels_of_pillow():
    rng, content, changed = np.random.default_rng(1), encoded(), 0
    start = content.index(b"\xff\xda") + 20
    for _ in range(60):
        body = np.frombuffer(content, np.uint8).copy()
        body[rng.integers(start, len(body) - 2, 2)] = rng.integers(0, 255, 2)
        found = shown(body.tobytes())
        assert np.array_equal(found, shown_by_pillow(body.tobytes()))
        changed += not np.array_equal(found, shown(content))
    assert changed > 20
