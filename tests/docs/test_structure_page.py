"""Tests of docs/structure.md: each room lists its files by the first lines of their docstrings.

`python tests/docs/test_structure_page.py` writes the tables anew.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "structure.md"
TABLE = re.compile(r"(?<=^\| file \| what is in it \|\n\|---\|---\|\n)(?:\|.*\n)*", re.MULTILINE)
SECTION = re.compile(r"^## (\w+)/\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def rows(room: str) -> str:
    """Returns the table of a room."""
    folder = ROOT / "lift_jax" / room
    files = sorted(folder.rglob("*.py"), key=lambda file: (file.parent != folder, str(file)))
    lines = []
    for file in files:
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        if file.name != "__init__.py":
            first = text.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
            lines.append(f"| `{file.relative_to(folder)}` | {first} |\n")
    return "".join(lines)


def written(page: str) -> str:
    """Returns the page with its tables as the files have it."""
    return SECTION.sub(lambda part: TABLE.sub(lambda _: rows(part[1]), part[0]), page)


def test_every_room_lists_its_files():
    page = PAGE.read_text()
    assert written(page) == page, "run python tests/docs/test_structure_page.py"
    rooms = {file.parent.name for file in (ROOT / "lift_jax").glob("*/__init__.py")}
    assert {match[1] for match in SECTION.finditer(page)} >= rooms


if __name__ == "__main__":
    sys.exit(PAGE.write_text(written(PAGE.read_text())) == 0)
