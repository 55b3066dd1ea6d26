"""Write what `adopt` starts from: the template's own text of each file that it changes, for each problem. `--check` compares.

The runtime carries them, as a released runtime has no template beside it: by them it knows which file nobody has edited,
and what it writes stays the template's file but for what is about the table.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jinja2
import yaml

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "template/runtime/src/mlops_ladder/data/adopt/texts.json"
PROBLEMS = ("classification", "regression")
FILES = [
    "conf/data.yml",
    "conf/environments/prod.yml",
    "conf/experiment.yml",
    "conf/monitoring.yml",
    "conf/prediction_log.yml",
    "conf/release.yml",
    "conf/retraining.yml",
    "conf/success.yml",
    "conf/training.yml",
    "conf/validation.yml",
    "data/catalog.yml",
    "src/{{ package_name }}/behaviour.py",
    "src/{{ package_name }}/data.py",
    "src/{{ package_name }}/fast.py",
    "src/{{ package_name }}/features.py",
    "src/{{ package_name }}/model.py",
    "tests/test_data.py",
    "tests/test_features.py",
    "tests/test_model.py",
]
# Long and unlike anything in the texts; `adopt` puts the project's own in their place.
ANSWERS = {"package_name": "the_package_of_the_project", "project_name": "The Project As It Is Called"}


def settings() -> dict[str, Any]:
    """Return copier.yml's settings of jinja, `undefined` aside."""
    first = (ROOT / "copier.yml").read_text(encoding="utf-8").partition("---")[0]
    return {
        name: value
        for name, value in yaml.safe_load(first.replace("jinja2.StrictUndefined", "null"))["_envops"].items()
        if name != "undefined"
    }


def build() -> str:
    """Return the texts by path and problem, as JSON; one text where the problem makes no difference."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, **settings())
    texts = {}
    for name in FILES:
        file = ROOT / "template" / name
        if file.is_file():
            rendered = dict.fromkeys(PROBLEMS, file.read_text(encoding="utf-8"))
        else:
            source = environment.from_string(file.with_name(f"{file.name}.jinja").read_text(encoding="utf-8"))
            rendered = {problem: source.render(problem=problem, **ANSWERS) for problem in PROBLEMS}
        texts[name.replace("{{ package_name }}", "PACKAGE")] = rendered
    return json.dumps(texts, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    if "--check" not in sys.argv:
        TARGET.write_text(build(), encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != build():
        sys.exit(f"{TARGET.relative_to(ROOT)} is stale: run `nox -s generate`")
