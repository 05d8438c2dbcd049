"""Tests of the structure: imports go one way between the rooms (folders) of the package.

`python tests/structure/test_floors.py` prints the rooms, lowest first, with what each imports.
"""

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "lift_jax"

# Lowest first. A room is a folder, or a file at the root of the package; configs/ lies outside.
FLOORS = [
    ["output"],
    ["errors"],
    ["settings"],
    ["storage"],
    ["parallel"],
    ["models"],
    ["tuners"],
    ["weights"],
    ["data"],
    ["evaluation"],
    ["training"],
    ["runs"],
    ["reports"],
    ["sweeps", "benchmarks", "demo", "export", "app"],
    ["commands", "main"],
    ["__main__"],
    ["configs"],
]
# `commands` and `main` are one floor: main.py is the command `train`.
SAME_FLOOR = {("main", "commands"), ("commands", "main")}
PRINT_THE_VERSION = {"benchmarks.system", "commands.line.dispatch", "export.description"}
AT_THE_ROOT = {"__init__.py", "__main__.py", "main.py", "errors.py"}
MOST_IN_A_FOLDER = 12


def test_every_import_goes_down():
    files = sources()
    assert len(files) > 100, f"too few Python files in {PACKAGE}"
    faults = [fault for file in files for fault in check(name_of(file), file.read_text())]
    assert not faults, "\n" + "\n".join(faults)


def test_rooms_are_small():
    assert {file.name for file in PACKAGE.glob("*.py")} == AT_THE_ROOT
    for folder in {file.parent for file in sources()}:
        many = [file.name for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(many) <= MOST_IN_A_FOLDER, f"{folder.name} holds {len(many)} files"


def test_text_reaches_the_terminal_in_one_way():
    """Rich reads brackets as markup, and print passes control characters on; output/ does not."""
    names = {"print", "Console"}
    for file in sources():
        if file.parent.name == "output":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            assert not (called and node.func.id in names), (
                f"{file}:{node.lineno}: use lift_jax.output"
            )
            if isinstance(node, ast.ImportFrom) and node.module in ("rich.progress", "rich.markup"):
                imported = {alias.name for alias in node.names}
                assert not imported & {"track", "escape"}, f"{file}:{node.lineno}"


def test_sizes_of_files_and_memory_have_one_form():
    """Sizes in bytes are written by rich.filesize.decimal: "1.5 GB", never by an own format."""
    own = re.compile(r"(\}|%[\d.]*[dfgs]) ?[kMGTP]i?B\b")
    for file in sources():
        for number, line in enumerate(file.read_text().splitlines(), 1):
            assert not own.search(line), f"{file}:{number}: use rich.filesize.decimal"


def test_every_folder_is_installed():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    installed = set(project["tool"]["setuptools"]["packages"])
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert installed == found | {"lift_jax.configs"}


def test_every_file_beside_the_code_is_installed():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["lift_jax"]
    declared = {file for pattern in patterns for file in PACKAGE.glob(pattern) if file.is_file()}
    found = {file for file in PACKAGE.rglob("*.*") if file.suffix not in (".py", ".pyc")}
    assert PACKAGE / "reports/templates/page.html" in found
    assert not found - declared


LONGEST = 60  # lines of a function
REASON = "# long:"  # begins the comment above a longer one, which says why


def test_long_functions_have_a_reason():
    for file in sources():
        lines = file.read_text().splitlines()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                begin = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                size = node.end_lineno - begin + 1
                reason = lines[begin - 2].strip().startswith(REASON)
                assert size <= LONGEST or reason, f"{file}: {node.name} has {size} lines"


@pytest.mark.parametrize(
    "room, source, fault",
    [
        ("training.loop", "from lift_jax.evaluation import metrics", None),
        ("training.loop", "import numpy\nfrom lift_jax.errors import UserError", None),
        ("training.loop", "from lift_jax.training import losses", None),
        ("training.loop", "import lift_jax.runs.folder", "above"),
        ("data.loader", "def f():\n    from lift_jax.training import loop", "above"),
        ("models.block", "from . import backbone", None),
        ("models.block", "from ..errors import UserError", None),
        ("models.block", "from ..tuners import attach", "above"),
        ("sweeps.cells", "from lift_jax.benchmarks import step", "same floor"),
        ("main", "from lift_jax.commands.line import parsing", None),
        ("runs.folder", "import json, lift_jax", "package itself"),
        ("runs.folder", "from lift_jax import load_backbone", "package itself"),
        ("benchmarks.system", "import lift_jax", None),
        ("configs.demo", "from lift_jax import settings", None),
        ("settings.schema", "from configs import demo", "above"),
        ("utils", "", "FLOORS"),
    ],
)
def test_the_check_sees_what_it_should(room, source, fault):
    faults = check(room, source)
    assert (not faults) if fault is None else (fault in " ".join(faults)), faults


def sources() -> list[Path]:
    """Returns the files of the package and of configs/."""
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "configs").glob("*.py")])


def check(module: str, source: str) -> list[str]:
    """Returns what is wrong with the imports of one module, a sentence each."""
    room = module.partition(".")[0]
    if module == "__init__":
        return []  # the face of the package gathers names from any floor
    floor = floor_of(room)
    if floor is None:
        return [f"{module} has no floor: add its room to FLOORS here."]
    faults = []
    for target in imports(module, source):
        if target == "":
            if module not in PRINT_THE_VERSION:
                faults.append(f"{module} imports from the package itself: name the module.")
            continue
        other = target.partition(".")[0]
        if other == room or (room, other) in SAME_FLOOR:
            continue
        height = floor_of(other)
        if height is None:
            faults.append(f"{module} imports {target}, which has no floor: add it to FLOORS here.")
        elif height > floor:
            faults.append(f"{module} imports {target} from a floor above its own.")
        elif height == floor:
            faults.append(f"{module} imports {target} from the same floor.")
    return faults


def imports(module: str, source: str) -> set[str]:
    """Returns the modules of this repository that a source imports ("" is the package)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = f"lift_jax.{module}".split(".")[: -node.level]
                base = ".".join(parents + ([base] if base else []))
            # `from package import name` imports the module `name` where there is one
            for alias in node.names:
                path = f"{base}.{alias.name}"
                found.add(path if is_module(path) else base)
    found = {name for name in found if name.split(".")[0] in ("lift_jax", "configs")}
    return {name.removeprefix("lift_jax").removeprefix(".") for name in found}


def is_module(path: str) -> bool:
    """Returns True if a dotted path is a module or a folder of the repository."""
    file = ROOT / path.replace(".", "/")
    return file.is_dir() or file.with_suffix(".py").exists()


def floor_of(room: str) -> int | None:
    """Returns the height of a room, None for one that is not in the table."""
    return next((height for height, rooms in enumerate(FLOORS) if room in rooms), None)


def name_of(file: Path) -> str:
    """Returns a file's dotted name inside the package, or below the repository for configs/."""
    base = PACKAGE if PACKAGE in file.parents else ROOT
    return ".".join(file.relative_to(base).with_suffix("").parts)


def main() -> None:
    """Prints the rooms, lowest first, with their lines and the rooms that they import."""
    lines, targets = defaultdict(int), defaultdict(set)
    for file in sources():
        room = name_of(file).partition(".")[0]
        lines[room] += len(file.read_text().splitlines())
        targets[room] |= {
            name.partition(".")[0] for name in imports(name_of(file), file.read_text())
        }
    for height, rooms in enumerate(FLOORS):
        for room in rooms:
            below = ", ".join(sorted(targets[room] - {room, ""}, key=lambda r: floor_of(r) or 0))
            print(f"{height:3} {room:12} {lines[room]:6} lines  imports {below or 'nothing'}")


if __name__ == "__main__":
    sys.exit(main())
