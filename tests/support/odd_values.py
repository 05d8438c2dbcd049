"""Values that nobody would give a setting or write into a file, one list for all tests."""

import math
from typing import Any

ODD_VALUES: list[Any] = [
    *(math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, -0.0, 0.5),
    *(-1, 0, 1, 2**31, 2**32, 2**63, 10**9, -(10**9), 10**20, 10**5000, True, False, None),
    *("", "a", " ", "a" * 300, "a" * 5000, "a/" * 2000, "~nobody/a", "..", "/", "://"),
    *("\0", "a\nb", "\ud800", "\u202e", "{}", "+", "0:99999999999"),
    *([], {}, (), [[[[]]]], [1, "a"], {"a": 1}, b"a", {1, 2}, object(), 1j),
]
