"""The settings as text: `lift-jax settings`, and the page docs/settings.md."""

import json
import textwrap

from lift_jax.settings.methods import METHODS
from lift_jax.settings.schema import GROUPS, entries
from lift_jax.settings.setting import Entry
from lift_jax.settings.values import TYPE_NAMES

INTRODUCTION = """# Settings

This page lists every setting of a run. Set one on the command line, `--config.train.lr=0.01`, or in
a config file, `c.train.lr = 0.01`. `lift-jax settings train.lr` prints one setting,
`lift-jax settings train` a group.

A text is one line of at most 1,000 characters; a path, an address or a prompt has at most 4,096.
This page is written by `lift-jax settings --markdown`.
"""


def facts(entry: Entry) -> str:
    """Returns type, range and default of a setting in words."""
    about, lift, soups = entry.about, of_method("lift", entry), of_method("lt_soups", entry)
    kind = f"one of {', '.join(about.choices)}" if about.choices else TYPE_NAMES[entry.type]
    parts = [kind, about.range, f"default {json.dumps(entry.default)}"]
    if about.by_method and lift is not None:
        parts[-1] += f" (LIFT+), {json.dumps(lift)} (method=lift)"
    if soups not in (None, lift):
        parts[-1] += f", {json.dumps(soups)} (method=lt_soups)"
    if about.only_for:
        parts.append(f"only for {about.only_for}")
    return "; ".join(filter(None, parts))


def of_method(method: str, entry: Entry) -> bool | int | float | str | None:
    """Returns the value that a method gives a setting, None if it does not set it."""
    group, _, name = entry.key.rpartition(".")
    values = METHODS[method]
    return (values.get(group, {}) if group else values).get(name)


def explain(entry: Entry) -> str:
    """Returns a setting as it is shown in a terminal."""
    body = textwrap.wrap(entry.about.meaning, 92) + textwrap.wrap(f"[{facts(entry)}]", 92)
    return "\n".join([entry.key, *(f"    {line}" for line in body)])


def markdown() -> str:
    """Returns the page of all settings."""
    parts = [INTRODUCTION]
    for group in ("", *GROUPS):
        if group:
            parts.append(f"## {group}\n\n{GROUPS[group].__doc__}\n")
        rows = [
            f"| `{entry.key}` | {cell(entry.about.meaning)} | {cell(facts(entry))} |"
            for entry in entries(group)
        ]
        parts.append("\n".join(["| setting | meaning | values |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def cell(text: str) -> str:
    """Returns a text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("{", "&#123;").replace("}", "&#125;")
