"""Tests of names of folders made of any text."""

import pytest

from lift_jax.storage.names import folder_names


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["red_fox", "Bär é", "数 猫", "a.b"], ["red_fox", "Bär é", "数 猫", "a.b"]),
        (["a/b", "a\\b", "a:b"], ["a_b", "a_b_2", "a_b_3"]),
        (["a/b", "a_b"], ["a_b_2", "a_b"]),  # a legal one keeps its name
        (["..", ".", "", "../../etc", "~", "-rf"], ["__", "_", "__2", "_._.._etc", "__3", "_rf"]),
        ([".hidden", "end.", "end "], ["_hidden", "end_", "end__2"]),
        (["con", "NUL.txt", "com1", "common"], ["con_", "NUL.txt_", "com1_", "common"]),
        (["a\x00b", "a\nb", "\udc80"], ["a_b", "a_b_2", "_"]),
        (["Fox", "fox", "FOX"], ["Fox", "fox_2", "FOX_3"]),
        (["é", "e\u0301"], ["é", "e\u0301_2"]),
        (["n" * 300], ["n" * 200]),
        (["数" * 100], ["数" * 66]),
        (["unknown", "Unknown"], ["unknown_2", "Unknown_3"]),  # taken
        (["two", "two"], ["two", "two_2"]),
    ],
)
def test_names_by_hand(texts, names, tmp_path):
    taken = ["unknown"] if "unknown" in texts else []
    found = folder_names(texts, taken)
    assert found == names
    for name in found:
        (tmp_path / name).mkdir()
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()
