"""The paths of the tests' data and of the repository."""

from pathlib import Path

TESTS = Path(__file__).parent.parent
GOLDEN = TESTS / "golden"
ROOT = TESTS.parent
