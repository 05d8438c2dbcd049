"""The tests of the page in a real browser, and screenshots of it to look at.

    python -m tests.browser              the tests alone
    python -m tests.browser FOLDER       with screenshots, narrow and wide, light and dark

It needs Playwright, which requirements.txt has, and an installed Chromium or Chrome. The exit
status is that of pytest, and 2 without a browser.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> int:
    """Runs the tests; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.browser", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", nargs="?", type=Path, help="folder for the screenshots")
    shots = parser.parse_args().folder
    from app.test_browser import BROWSER, BROWSERS

    if BROWSER is None:
        print(f"There is no browser on the PATH: install one of {', '.join(BROWSERS)}.")
        return 2
    environment = dict(os.environ)
    if shots is not None:
        shots.mkdir(parents=True, exist_ok=True)
        environment["LIFT_JAX_SCREENSHOTS"] = str(shots.absolute())
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/app/test_browser.py"]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
