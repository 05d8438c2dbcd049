"""From the config that a user wrote to checked, typed, resolved settings."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from lift_jax.errors import UserError, shown, unknown
from lift_jax.settings.rules import check_rules, tuners_of_texts
from lift_jax.settings.schema import GROUPS, Settings, all_entries, entries
from lift_jax.settings.values import check_value

ABSENT = "absent"  # in place of the value of a setting that a config lacks


def parse(config: ConfigDict | Mapping[str, Any]) -> Settings:
    """Returns the settings of a config, checked and resolved.

    Raises UserError for a setting that is missing, unknown, of another type or out of range, and
    for settings that do not go together.
    """
    written = to_dict(config)
    resolved = resolve(typed(written))
    check_rules(resolved)
    return resolved


def to_dict(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config as plain dicts, lists and numbers, as config.json holds it.

    Raises UserError for a value that JSON has no form for.
    """
    try:
        text = config.to_json() if isinstance(config, ConfigDict) else json.dumps(config)
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        key, value = _unwritable(config)
        raise UserError(
            f"The config's {key} is {shown(value)}; expected true or false, a number or text, as "
            f"`lift-jax settings` lists."
        ) from error


def _unwritable(config: Any, key: str = "") -> tuple[str, Any]:
    """Returns the first key of a config, and its value, that JSON has no form for."""
    for name, value in config.items():
        inner = f"{key}.{name}".strip(".")
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError):
            is_group = isinstance(value, Mapping | ConfigDict) and not key
            return _unwritable(value, inner) if is_group else (inner, value)
    return key, config


def typed(written: Mapping[str, Any]) -> Settings:
    """Returns settings with the values of a config, each checked against the schema.

    Raises UserError for a setting that is missing, unknown, of another type or out of range.
    """

    def values(group: str) -> dict[str, Any]:
        given = written.get(group, {}) if group else written
        if not isinstance(given, Mapping):
            raise UserError(
                f"The config's {group} is {shown(given)}; expected a group of settings."
            )
        known = {entry.key.rpartition(".")[2]: entry for entry in entries(group)}
        if more := [key for key in given if key not in known and (group or key not in GROUPS)]:
            raise unknown(
                "setting", f"{group}.{more[0]}".strip("."), [e.key for e in known.values()]
            )
        for name, entry in known.items():
            if name not in given and entry.about.before is None:
                raise UserError(f"The config lacks the setting {entry.key!r}.")
        return {
            name: check_value(entry, given.get(name, entry.about.before))
            for name, entry in known.items()
        }

    groups = {name: group(**values(name)) for name, group in GROUPS.items()}
    return Settings(**values(""), **groups, written=written)


def as_begun(settings: Settings, saved: Mapping[str, Any]) -> Settings:
    """Returns the settings with which a run continues.

    A setting that was added to the program after the run began keeps the meaning that it had then
    (`About.before`). A setting that `settings` lacks takes the value of the run. The group `test`
    stays as it is given, because a run may be tested in any way.

    Args:
        settings: what the user gives now.
        saved: the config that the run began with.
    """
    written = {**settings.written}
    for key in _came_later():
        group, _, name = key.partition(".")
        if group == "test":
            continue
        then, now = saved.get(group, {}), written.get(group, {})
        rest = {k: v for k, v in now.items() if k != name}
        if name not in then:
            written[group] = rest
            if not rest and group not in saved:  # the whole group came later
                del written[group]
        elif name not in now:
            written[group] = rest | {name: then[name]}
    return parse(written)


def _came_later() -> list[str]:
    """Returns the settings, each of a group, that configs of older versions lack."""
    return [key for key, entry in all_entries().items() if entry.about.before is not None]


def resolve(settings: Settings) -> Settings:
    """Replaces automatic values that depend on other settings alone."""
    s = settings
    kind = s.head.kind
    if kind == "auto":
        kind = "text" if tuners_of_texts(s) else "cosine"
    scale = s.loss.scale
    if s.loss.name == "ldam" and not scale:
        scale = s.head.scale
    return replace(
        s,
        head=replace(s.head, kind=kind),
        loss=replace(s.loss, scale=scale),
        text_tuner=replace(s.text_tuner, init=s.tuner.init),
    )


def differences(
    saved: Mapping[str, Any], current: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Lists "key: saved -> current" for each value that differs between two configs as dicts.

    A setting that only one of them has, because the other was written before the setting came,
    counts as a difference if its value is neither the default nor what runs did before.
    """
    lines = []
    for key in sorted(saved.keys() | current.keys()):
        a, b = saved.get(key, ABSENT), current.get(key, ABSENT)
        groups = [each for each in (a, b) if isinstance(each, dict)]
        if groups and len(groups) == 2 - (ABSENT in (a, b)):  # a whole group may have come later
            lines += differences(*({} if g == ABSENT else g for g in (a, b)), f"{prefix}{key}.")
        elif a != b and not (ABSENT in (a, b) and _means_the_same(f"{prefix}{key}", a, b)):
            lines.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return lines


def _means_the_same(key: str, *values: Any) -> bool:
    """Returns True if a config without a setting may mean the value that another config gives."""
    if key not in _came_later():
        return False
    entry = all_entries()[key]
    return all(value in (ABSENT, entry.about.before, entry.default) for value in values)


def same(a: Mapping[str, Any], b: Mapping[str, Any], ignored: tuple[str, ...]) -> bool:
    """Returns True if two configs are the same outside the ignored groups and keys."""
    return not changes(a, b, ignored)


def changes(a: Mapping[str, Any], b: Mapping[str, Any], ignored: tuple[str, ...]) -> list[str]:
    """Returns the `differences` of two configs outside the ignored groups and keys."""
    return [
        line
        for line in differences(a, b)
        if not any(line.startswith((f"{key}:", f"{key}.")) for key in ignored)
    ]
