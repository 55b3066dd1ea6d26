"""Build template/docs/levels/practices.toml, what `maturity` reads, from levels/*/practices.yml. `--check` only compares."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE = ROOT / "template/docs/levels/practices.toml"
KEYS = ("id", "level", "title", "ends_at", "tests", "pages", "absent")  # what the generated project needs, in order


def read_practices() -> list[dict[str, Any]]:
    """Return the practices of all levels, in the order of the files, each with its `level`."""
    found = []
    for file in sorted(ROOT.glob("levels/*/practices.yml")):
        for practice in yaml.safe_load(file.read_text(encoding="utf-8")):
            found.append({**practice, "level": int(file.parent.name[0])})
    return found


def build() -> str:
    lines = ["# Every practice of the five levels and what proves it here; read by `maturity`. The template's file."]
    for practice in read_practices():
        lines += ["", "[[practice]]"]
        lines += [f"{key} = {json.dumps(practice[key], ensure_ascii=False)}" for key in KEYS if key in practice]
    return "\n".join(lines) + "\n"


def main() -> int:
    if "--check" in sys.argv[1:]:
        if CATALOGUE.read_text(encoding="utf-8") != build():
            print(f"{CATALOGUE.relative_to(ROOT)} is stale: run `nox -s generate`", file=sys.stderr)
            return 1
        return 0
    CATALOGUE.write_text(build(), encoding="utf-8")
    print(f"wrote {CATALOGUE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
