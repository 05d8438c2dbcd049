"""Where the tests find their data and the repository."""

from pathlib import Path

TESTS = Path(__file__).parent.parent
GOLDEN = TESTS / "golden"
ROOT = TESTS.parent
