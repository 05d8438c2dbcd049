"""The fields of a tower's sizes that came later, which leave older fingerprints as they were."""

import dataclasses
from typing import Any


def later(default: Any) -> Any:
    """Returns a dataclass field for a size that older files lack."""
    return dataclasses.field(default=default, metadata={"later": True})


def counted(sizes: Any) -> dict[str, Any]:
    """Returns the sizes of a tower without those that came later and have their default.

    A backbone's fingerprint counts these alone.
    """
    fields = dataclasses.fields(sizes)
    left_out = {
        f.name for f in fields if f.metadata.get("later") and getattr(sizes, f.name) == f.default
    }
    all_sizes = dataclasses.asdict(sizes)
    return {name: value for name, value in all_sizes.items() if name not in left_out}
