"""List the data sets and models there are, here and in the catalogues that data/catalog.yml names; write model cards.

python -m {package} catalog
python -m {package} catalog --find weather
python -m {package} catalog --cards         # writes docs/models/, a card for each registered version
python -m {package} catalog --check         # exit 3: a data set that nobody catalogued, a released version without card
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import files
from ..core.errors import ProjectError, Refused
from ..core.project import Project
from ..data import split, store
from ..training import tracking
from . import data_sets, lineage, policy

if TYPE_CHECKING:
    from mlflow import MlflowClient

CARDS = Path("docs/models")
DATA_FILES = {".parquet", ".csv", ".db", ".sqlite", ".duckdb"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--find", metavar="TEXT", help="only what has TEXT in its name, description, owner or path")
    parser.add_argument("--cards", action="store_true", help=f"write each registered version's card to {CARDS}")
    parser.add_argument("--check", action="store_true", help="refuse when a data set or a card is missing")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    if options.cards:
        return print(f"{len(write_cards(project))} of the cards in {CARDS} are new or changed")
    if options.check:
        if lacking := [*uncatalogued(project), *uncarded(project)]:
            raise Refused("\n  ".join([f"{len(lacking)} entries are missing:", *lacking]))
        return print("every data set is in the catalogue, every released version has its card")
    found = [*datasets(project), *models(project)]
    if options.find:
        found = [one for one in found if options.find.lower() in json.dumps(list(one.values())).lower()]
    print(json.dumps(found, indent=2) if options.json else "\n".join(map(sentence, found)) or "nothing found")


def sentence(one: dict[str, Any]) -> str:
    facts = [one["kind"], one["name"], one["what"], one["where"], f"owner {one['owner']}"]
    if one["kind"] == "data":
        facts += [one["class"], f"kept {one['retention_days']} days" if one["retention_days"] else "kept without end"]
        facts += [f"masked: {', '.join(one['masked'])}"] * bool(one["masked"])
    return "  ".join(facts)


def datasets(project: Project) -> list[dict[str, Any]]:
    """Return the data sets of this project and of the projects whose catalogues `others` names, whoever owns them."""
    told = []
    for file in [
        project.path(data_sets.FILE),
        *(project.path(Path(other).expanduser()) for other in data_sets.read(project).others),
        *project.path("shared").glob("*/catalog.yml"),
    ]:
        if not file.is_file():
            raise ProjectError(f"there is no catalogue {file}: mend `others` in {data_sets.FILE}")
        home = (
            project.folder
            if file == project.path(data_sets.FILE)
            else file.parent.parent
            if file.parent.name == "data"
            else file.parent
        )
        for name, entry in data_sets.read(project, file).datasets.items():
            where = entry.path if "://" in entry.path else str(home / entry.path)
            told.append({"kind": "data", "name": name, **entry.model_dump(by_alias=True), "where": where})
    return told


def models(project: Project) -> list[dict[str, Any]]:
    """Return the registered versions of this project's model with what each is used as, newest first."""
    chosen, client = tracking.open_store(project)
    names, released = tracking.aliases(client, chosen.model), lineage.releases(project, client)
    told = []
    for one in sorted(client.search_model_versions(f"name = '{chosen.model}'"), key=lambda one: -int(one.version)):
        version = str(one.version)
        uses = [alias for alias, number in names.items() if number == version]
        uses += dict.fromkeys(r["environment"] for r in released if r["version"] == version)
        told.append(
            {
                "kind": "model",
                "name": f"{chosen.model} {version}",
                "what": f"{one.tags.get('family')} on {one.tags.get('data', '')[:12]}, {', '.join(uses) or 'not in use'}",
                "where": f"models:/{chosen.model}/{version}",
                "owner": one.tags.get("owner", "nobody"),
            }
        )
    return told


def uncatalogued(project: Project) -> list[str]:
    """Return, a sentence each, the folders of the data store that hold data and are no entry's path."""
    home, entries = store.read(project).home, data_sets.read(project).datasets.values()
    known = {project.path(entry.path) for entry in entries}
    inside = [file.relative_to(home).parts for file in home.rglob("*") if file.suffix in DATA_FILES]
    holding = {home / parts[0] for parts in inside if len(parts) > 1}
    return [f"{folder} holds data and is not in {data_sets.FILE}" for folder in sorted(holding - known)]


def uncarded(project: Project) -> list[str]:
    """Return, a sentence each, the released versions without a card in docs/models/, or with one that is out of date."""
    chosen, client = tracking.open_store(project)
    versions = sorted(
        {one["version"] for one in lineage.releases(project, client) if one["model"] == chosen.model}, key=int
    )
    lacking = []
    for version in versions:
        file = card_file(project, chosen.model, version)
        state = "has no card" if not file.is_file() else "has another card than the registry's facts make"
        if not file.is_file() or file.read_text(encoding="utf-8") != card(project, chosen, client, version):
            lacking.append(f"released version {version} {state}: `catalog --cards` writes {file}")
    return lacking


def write_cards(project: Project) -> list[Path]:
    """Write the cards that are missing or out of date; return their files."""
    chosen, client = tracking.open_store(project)
    project.path(CARDS).mkdir(parents=True, exist_ok=True)
    made = [str(one.version) for one in client.search_model_versions(f"name = '{chosen.model}'")]
    cards = {card_file(project, chosen.model, version): card(project, chosen, client, version) for version in made}
    return [file for file, text in cards.items() if files.replaced(file, text.encode())]


def card_file(project: Project, model: str, version: str) -> Path:
    return project.path(CARDS) / f"{model}-{version}.md"


def card(project: Project, chosen: Any, client: "MlflowClient", version: str) -> str:
    """Return the model card of a version as Markdown, after Mitchell et al. 2019; made of what is on record alone."""

    made = tracking.find_version(client, chosen.model, version)
    made_by = client.get_run(made.run_id)
    tags, measured, use = made_by.data.tags, made_by.data.metrics, policy.read(project).use
    worth = json.loads(tracking.read_artifact(client, made_by, "evaluation/metrics.json"))
    cut = json.loads(tracking.read_artifact(client, made_by, "split.json"))
    released = [
        one for one in lineage.releases(project, client) if one["version"] == version and one["model"] == chosen.model
    ]
    profile, how = cut["profile"], split.read(project, cut)
    period = f"from {profile['from'][:10]} to {profile['to'][:10]}" if profile["from"] else "without a time"
    before, later = (f" before {cut['cuts'][0]}", f"later than {cut['cuts'][1]}") if how.by_time else ("", "held out")
    approved = {key: made.tags[key] for key in ("approved_by", "approved_at", "approved_reason") if key in made.tags}
    lines = [
        f"# {chosen.model} version {version}",
        "",
        "Made by `catalog --cards` of what is on record; edit docs/governance/policy.yml instead.",
        "",
        "## What it is for",
        "",
        use.intended,
        "",
        *(f"- Not for: {text}" for text in use.not_for),
        f"- Whom it affects: {use.affects}",
        *(f"- Limit: {text}" for text in use.limits),
        "",
        "## How it came to be",
        "",
        f"- {tags['family']}, trained by {tags['by']} on {tracking.moment(made_by.info.start_time)}, owner {tags['owner']}",
        f"- commit {tags['commit']}, environment {tags['lock'][:12]} (uv.lock), run {made.run_id}",
        f"- data {tags['data']}: {profile['rows']:,} rows {period}",
        f"- trained on {cut['rows']['train']:,} rows{before}, split by {how}",
        "",
        f"## How good it is on {cut['rows']['test']:,} rows {later}",
        "",
        "| metric | this version | trivial baseline |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {measured[f'test_{name}']:.4f} | {measured[f'baseline_{name}']:.4f} |"
            for name in worth["metrics"]["test"]
        ),
        "",
        f"What {worth['primary']} loses when a column is shuffled: "
        + ", ".join(f"{name} {value:.4f}" for name, value in list(worth["importance"].items())[:5]),
        "",
        "## Whether it may be used",
        "",
        f"- gates: {made.tags.get('validation_status', 'not run')}",
        *(f"- gate {name}: {state}" for name, state in json.loads(made.tags.get("gates", "{}")).items()),
        *(f"- {key.replace('_', ' ')}: {value}" for key, value in approved.items()),
        *(f"- {r.get('kind', 'deploy')} to {r['environment']} {r['at']} by {r['by']}: {r['reason']}" for r in released),
        "",
    ]
    return "\n".join(lines)
