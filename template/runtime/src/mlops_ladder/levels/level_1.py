"""Level 1, DevOps without MLOps: data gathered by a job, a checked hand-off, a service around the model file."""

from ..core.levels import Level

LEVEL = Level(
    number=1,
    commands={
        "check-handoff": "serving.check_handoff",
        "ingest": "data.ingest",
        "prepare": "data.prepare",
        "serve": "serving.serve",
    },
)
