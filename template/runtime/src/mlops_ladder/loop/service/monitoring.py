"""Metrics of what `monitor` found, beside those of the service: Prometheus' rules and Grafana's panels read them here."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ...core.project import Project
from ...serving.app import Service

REPORTS = Path("reports/monitoring")
LABELS = ["signal", "of", "kind", "owner", "runbook", "action", "version"]


class Signals(Collector):
    """The newest report, read again when there is a newer one."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.started, self.report = time.time(), {}  # type: ignore[var-annotated]
        self.seen = ("", self.started)

    def collect(self) -> Iterator[Any]:
        newest = max((file.name for file in self.project.path(REPORTS).glob("*.json")), default="")
        try:
            at = (
                (self.project.path(REPORTS) / newest).stat().st_mtime if newest else self.started
            )  # else: since when one is awaited
            if (newest, at) != self.seen:
                text = (
                    (self.project.path(REPORTS) / newest).read_text(encoding="utf-8") if newest else "{}"
                )  # all were cleared away
                self.report, self.seen = json.loads(text), (newest, at)
        except (OSError, ValueError):  # it went away meanwhile or is none: the one before holds, and gets old
            pass
        value = GaugeMetricFamily("monitoring_signal", "Value of a signal of conf/monitoring.yml.", labels=LABELS)
        fired = GaugeMetricFamily("monitoring_fired", "1: the signal fired in the newest report.", labels=LABELS)
        for one in self.report.get("signals", []):
            place = one.get("column") or one.get("slice") or ""
            names = [one["name"], place, *(one[name] for name in LABELS[2:-1]), self.report["version"]]
            fired.add_metric(names, one["fired"])
            if one["value"] is not None:
                value.add_metric(names, one["value"])
        report = GaugeMetricFamily(
            "monitoring_report_timestamp_seconds", "When the newest report was written.", value=self.seen[1]
        )
        yield from (value, fired, report)


def extend(app: FastAPI, service: Service) -> None:
    service.registry.register(Signals(service.project))
