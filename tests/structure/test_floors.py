"""The package is a house of floors: a file imports only from floors below its own."""

import ast
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "lift_jax"

# Lowest first. A module is named from inside the package; a folder (written "data/") stands for all
# its modules, which may import each other.
FLOORS = [
    ["errors"],
    ["prompts"],
    ["config", "config_flag", "losses", "metrics", "mesh", "distributed", "stopping", "log"],
    ["remote", "together", "command"],
    ["folder", "models.layers", "models.tree"],
    ["models.hooks"],
    ["models.methods"],
    ["models.tuners"],
    ["models.blocks", "models.heads"],
    ["models.vit", "models.text", "models.resnet"],
    ["models.backbone"],
    ["models.prompting"],
    ["weights/", "data/"],
    ["optim", "state"],
    ["steps", "checkpoint", "cost"],
    ["features", "evaluate", "adjust"],
    ["init"],
    ["text_head"],
    ["build"],
    ["results"],
    ["train", "plots"],
    ["report", "look"],
    ["sweep"],
    ["main", "convert", "export", "data.__main__", "bench"],
    ["trained"],
    ["soup", "merge", "predict"],
]
# The demo stands beside the house: it may use every floor below the training loop, and only the
# loop and the commands may use it.
DEMO_BELOW = "train"


def test_every_import_goes_down():
    files = sorted(PACKAGE.rglob("*.py"))
    assert files, f"no Python files in {PACKAGE}"
    faults = [fault for file in files for fault in check(name_of(file), file.read_text())]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    "module, source, fault",
    [
        ("train", "from lift_jax import evaluate, losses", None),
        ("train", "import numpy\nfrom lift_jax.errors import UserError", None),
        ("losses", "import lift_jax.metrics", "same floor"),
        ("losses", "def f():\n    from lift_jax.train import loop", "above"),
        ("models.vit", "from . import backbone", "above"),
        ("models.vit", "from ..errors import UserError", None),
        ("models.blocks", "from lift_jax.models import tuners", None),
        ("data.loader", "from lift_jax.data import sources", None),
        ("data.loader", "from lift_jax.weights.hub import fetch", "same floor"),
        ("losses", "import json, lift_jax", "package itself"),
        ("steps", "from lift_jax import load_backbone", "package itself"),
        ("main", "from lift_jax.demo import make", None),
        ("demo.make", "from lift_jax import evaluate", None),
        ("demo.make", "from lift_jax import main", "above"),
        ("utils", "", "FLOORS"),
    ],
)
def test_the_check_sees_what_it_should(module, source, fault):
    faults = check(module, source)
    assert (not faults) if fault is None else (fault in " ".join(faults)), faults


def check(module: str, source: str) -> list[str]:
    """Returns what is wrong with the imports of one module, a sentence each."""
    if module == "" or module.split(".")[-1] == "__init__":
        return []  # the faces of packages gather names from any floor
    floor = floor_of(module)
    if floor is None:
        return [f"lift_jax/{module.replace('.', '/')}.py has no floor: add it to FLOORS here."]
    faults = []
    for target in imports(module, source):
        if target == "":
            faults.append(f"{module} imports from the package itself: name the module.")
            continue
        other = floor_of(target)
        if other is None:
            faults.append(f"{module} imports {target}, which has no floor: add it to FLOORS here.")
        elif other > floor:
            faults.append(f"{module} imports {target} from a floor above its own.")
        elif other == floor and room_of(module) != room_of(target):
            faults.append(f"{module} imports {target} from the same floor.")
    return faults


def imports(module: str, source: str) -> set[str]:
    """Returns the package's modules that a source imports, wherever in it ("" is the package)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = f"lift_jax.{module}".split(".")[: -node.level]
                base = ".".join(parents + ([base] if base else []))
            # `from package import name` imports the module `name` where there is one.
            for alias in node.names:
                path = f"{base}.{alias.name}"
                found.add(path if is_module(path) else base)
    found = {name for name in found if name.split(".")[0] == "lift_jax"}
    return {name.removeprefix("lift_jax").removeprefix(".") for name in found}


def is_module(path: str) -> bool:
    """Says whether a dotted path is a module or a folder, by the table or on disk."""
    name = path.removeprefix("lift_jax.")
    file = PACKAGE.parent / path.replace(".", "/")
    return path.startswith("lift_jax.") and (
        floor_of(name) is not None or file.is_dir() or file.with_suffix(".py").exists()
    )


def floor_of(module: str) -> float | None:
    """Returns the height of a module, None for one that is not in the table."""
    if room_of(module) == "demo/":
        return floor_of(DEMO_BELOW) - 0.5  # type: ignore[operator]
    for height, rooms in enumerate(FLOORS):
        if room_of(module) in rooms:
            return height
    return None


def room_of(module: str) -> str:
    """Returns the name by which the table knows a module: its folder's where that is one room."""
    if any(module in rooms for rooms in FLOORS):
        return module  # a command may lie in a folder
    folder = module.split(".")[0] + "/"
    return folder if folder == "demo/" or any(folder in rooms for rooms in FLOORS) else module


def name_of(file: Path) -> str:
    """Returns a file's dotted name inside the package, "" for the package's own face."""
    name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
    return "" if name == "__init__" else name
