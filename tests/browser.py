"""The tests of the page in a real browser, and screenshots of it to look at.

    python -m tests.browser              the tests alone
    python -m tests.browser FOLDER       with screenshots, narrow and wide, light and dark

It needs Playwright, which requirements.txt has, and an installed Chromium or Chrome. The exit
status is that of pytest, and 2 without a browser.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> int:
    """Runs the tests; returns the exit status."""
    from app.test_browser import BROWSER, BROWSERS

    if BROWSER is None:
        print(f"There is no browser on the PATH: install one of {', '.join(BROWSERS)}.")
        return 2
    environment = dict(os.environ)
    if len(sys.argv) > 1:
        shots = Path(sys.argv[1]).absolute()
        shots.mkdir(parents=True, exist_ok=True)
        environment["LIFT_JAX_SCREENSHOTS"] = str(shots)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/app/test_browser.py"]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
