"""Level 2, automated training: versioned and validated data, tracked and reproducible runs, a registry."""

from ..core.levels import Level

LEVEL = Level(
    number=2,
    commands={
        "datasets": "training.datasets",
        "notify": "core.notify",
        "promote": "training.promote",
        "reproduce": "training.reproduce",
        "runs": "training.runs",
        "train": "training.train",
        "tune": "training.tune",
        "validate": "data.validate",
    },
    openers={"models": "serving.registry"},
)
