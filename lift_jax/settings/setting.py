"""A setting: its description, and how a group of settings declares it.

A group is a frozen dataclass. `setting` gives a field its default and describes it.
"""

import math
from dataclasses import dataclass, field
from typing import Any

INF = math.inf


@dataclass(frozen=True)
class About:
    """Describes one setting.

    Attributes:
        meaning: a sentence for people.
        low, high: the range of a number, ends included. Every number has a largest value, so that
            no sum, product or allocation grows beyond what the work can do with; it is far
            above what any use needs.
        exclusive: which ends are excluded: "low", "high" or "".
        choices: the values of a text, empty where any text is taken.
        longest: the largest number of characters of a text.
        path: True for a text that is, or may be, a path or an address.
        by_method: True if LIFT and LIFT+ differ in it.
        only_for: the value of the group's `name` (or one of several tuners), or of train.optimizer,
            that has this option.
        before: for a setting that a later version added, the value that stands for what earlier
            versions did. A config without the setting means this value.
        settable: False for a field that is not a setting of its group.
    """

    meaning: str = ""
    low: float = -INF
    high: float = INF
    exclusive: str = ""
    choices: tuple[str, ...] = ()
    longest: int = 1000
    path: bool = False
    by_method: bool = False
    only_for: str = ""
    before: Any = None
    settable: bool = True

    @property
    def range(self) -> str:
        """Returns the range as it is written in messages, "" where there is none."""
        if self.high == INF:
            return ""
        if self.high > 1:
            least = "positive" if "low" in self.exclusive else f"at least {self.low:g}"
            return f"{least} and at most {self.high:,}"
        left = "(" if "low" in self.exclusive else "["
        right = ")" if "high" in self.exclusive else "]"
        return f"in {left}{self.low:g}, {self.high:g}{right}"

    def contains(self, value: float) -> bool:
        """Returns True if a number lies in the range; NaN never does."""
        above = value > self.low if "low" in self.exclusive else value >= self.low
        below = value < self.high if "high" in self.exclusive else value <= self.high
        return above and below


def setting(default: Any, meaning: str, **about: Any) -> Any:
    """Returns a dataclass field with a default and its description (see `About`)."""
    return field(default=default, metadata={"about": About(meaning, **about)})


def not_settable(default: Any) -> Any:
    """Returns a dataclass field that no config holds."""
    return field(default=default, metadata={"about": About(settable=False)})


@dataclass(frozen=True)
class Entry:
    """One setting of the schema, by its dotted key."""

    key: str
    type: type
    default: Any
    about: About
