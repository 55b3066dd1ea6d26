"""Level 0, no MLOps: bring a table, score with the one model file, and say what the project shows."""

from ..core.levels import Level

LEVEL = Level(number=0, commands={"adopt": "data.adopt", "maturity": "core.maturity", "score": "serving.score"})
