"""The file of a figure: a PNG whose names are drawn as they are written."""

import io
import warnings
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

from lift_jax.storage import atomic

# matplotlib's own font has Latin, Greek, Cyrillic, Hebrew and Arabic letters. These families have
# Chinese, Japanese, Korean, Devanagari and Thai ones. Most systems have some of the families.
MORE_LETTERS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP",
    "Noto Sans KR", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "PingFang SC",
    "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "SimHei", "Yu Gothic",
    "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS",
)  # fmt: skip


def write(figure: Figure, path: Path) -> bytes:
    """Writes a figure as PNG, complete or not at all; returns the bytes of the file."""
    take_as_letters(figure)
    data = io.BytesIO()
    with warnings.catch_warnings():  # a letter that no font has is drawn as a box
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(data, format="png", dpi=160)
    atomic.write_bytes(path, data.getvalue())
    return data.getvalue()


def take_as_letters(figure: Figure) -> None:
    """Makes a figure draw its texts literally, so that a dollar sign begins no formula.

    Only the numbers of an axis stay formulas. Letters that matplotlib's font lacks come from other
    fonts of the system, if it has them.
    """
    # set_xticks makes a FuncFormatter of names
    numbers = {
        tick
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if not isinstance(axis.get_major_formatter(), FuncFormatter)
        for tick in axis.get_ticklabels(which="both")
    }
    found = {font.name for font in font_manager.fontManager.ttflist}
    more = [family for family in MORE_LETTERS if family in found]
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in numbers:
            text.set_parse_math(False)
            text.set_fontfamily([*text.get_fontfamily(), *more])
