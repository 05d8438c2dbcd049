"""Tests of the file of a figure: letters that matplotlib's own font lacks."""

import io
import warnings

import pytest
from matplotlib.figure import Figure

from lift_jax.reports import figure_file

ONLY_IN = "DejaVu Sans Mono"  # comes with matplotlib; has a U+2312, which DejaVu Sans lacks


@pytest.mark.parametrize(
    ("families", "missing"), [((), 1), ((ONLY_IN,), 0), (("No Such Font",), 1)]
)
def test_a_letter_comes_from_another_font_of_the_system(families, missing, monkeypatch):
    monkeypatch.setattr(figure_file, "MORE_LETTERS", families)
    figure = Figure()
    figure.subplots().set_title("cat \u2312")
    figure_file.take_as_letters(figure)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        figure.savefig(io.BytesIO(), format="png")
    assert len([w for w in told if "missing from" in str(w.message)]) == missing
    assert not [w for w in told if "findfont" in str(w.message)]
