"""Look whether services are up and ready, write it to the uptime log, and exit 3 when one is not.

python -m {package} uptime http://127.0.0.1:8000
python -m {package} notify uptime http://10.0.0.5:8000 http://10.0.0.6:8000   # tells the receivers of conf/notify.yml
python -m {package} uptime --report

Run it each minute, by cron or by a CronJob; the report says which share of the looks found each service ready.
"""

import argparse
import json
import time
import urllib.request
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ..core.errors import Refused, UsageError
from ..core.project import Project

LOG = Path("data/uptime.jsonl")  # kept out of git, as all of data/
TIMEOUT_S = 5  # a service that takes longer to say that it is ready is not


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", nargs="*", help="where a service answers, without a path")
    parser.add_argument("--report", action="store_true", help="print the share of looks that found each one ready")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(project: Project, options: argparse.Namespace) -> None:
    if bool(options.url) == options.report:
        raise UsageError("name the services to look at, or ask for the --report on those looked at before")
    if options.report:
        found = report(project)
        lines = [f"{one['url']} ready in {one['share']:.2%} of {one['looks']:,} looks" for one in found]
    else:
        found = [look(url.rstrip("/")) for url in options.url]
        project.path(LOG).parent.mkdir(parents=True, exist_ok=True)
        with project.path(LOG).open("a", encoding="utf-8") as log:
            log.writelines(json.dumps(one) + "\n" for one in found)
        lines = [f"{one['url']} {one['said']} after {one['ms']:.0f} ms" for one in found]
    print(json.dumps(found) if options.json else "\n".join(lines))
    if down := [one for one in found if not one.get("ready", True)]:
        raise Refused("; ".join(f"{one['url']} is not ready: {one['said']}" for one in down))


def look(url: str) -> dict[str, Any]:
    """Return whether the service at URL is ready, what it said and how long that took."""
    at, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=TIMEOUT_S) as answer:
            said = f"ready, version {answer.headers.get('x-model-version')}"
            ready = answer.status == 200
    except (OSError, ValueError, HTTPException) as error:  # refused, timed out, 503, no URL, not HTTP
        said, ready = str(getattr(error, "reason", error)), False
    said = said.strip()
    return {"at": at, "url": url, "ready": ready, "said": said, "ms": round((time.perf_counter() - start) * 1e3, 1)}


def report(project: Project) -> list[dict[str, Any]]:
    """Return for each service the number of looks, the share that found it ready, and the last that did not."""
    lines = project.path(LOG).read_text(encoding="utf-8").splitlines() if project.path(LOG).is_file() else []
    looks: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        one = json.loads(line)
        looks.setdefault(one["url"], []).append(one)
    return [
        {
            "url": url,
            "looks": len(some),
            "share": sum(one["ready"] for one in some) / len(some),
            "last_down": next((one["at"] for one in reversed(some) if not one["ready"]), None),
        }
        for url, some in looks.items()
    ]
