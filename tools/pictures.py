"""Take the pictures of the README from the reports of a demo, in Chromium.

    python tools/pictures.py FOLDER      # made by `nox -s demo`

Needs a chromium on PATH (Debian: apt-get install chromium).
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/runtime"))
import browser

WIDTH, HEIGHT = 1000, 640  # pixels: what a README shows without being cut down, in less than LARGEST
LARGEST = 200_000  # bytes
PICTURES = {"reports/simulation/summary.html": "summary.png", "reports/dashboard.html": "dashboard.png"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/assets", help="default: docs/assets")
    options = parser.parse_args()
    if browser.find() is None:
        sys.exit("no chromium on PATH: apt-get install chromium")
    for page in PICTURES:
        if not (options.folder / page).is_file():
            sys.exit(f"{options.folder / page} is not there: `nox -s demo` makes it")
    with browser.Browser() as opened:
        for page, name in PICTURES.items():
            opened.open(options.folder / page, WIDTH)
            file = opened.picture(options.output / name, HEIGHT)
            if (size := file.stat().st_size) > LARGEST:
                sys.exit(
                    f"{file} has {size:,} bytes, must have {LARGEST:,} or fewer: lower HEIGHT in tools/pictures.py"
                )
            print(f"{file}: {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
