"""Level 4, full MLOps: a prediction log, drift and decay, retraining through every gate, canary and A/B, an audit trail."""

from ..core.levels import Level

LEVEL = Level(
    number=4,
    commands={
        "audit": "loop.audit",
        "dashboard": "loop.dashboard",
        "drift": "loop.drift",
        "experiment": "loop.experiment",
        "feedback": "loop.feedback",
        "forget": "loop.forget",
        "impact": "loop.impact",
        "monitor": "loop.monitor",
        "on-alert": "loop.on_alert",
        "portfolio": "loop.portfolio",
        "prediction-log": "loop.prediction_log",
        "retention": "loop.retention",
        "retrain": "loop.retrain",
        "sign": "loop.sign",
        "simulate": "loop.simulate",
        "stream-features": "loop.stream_features",
    },
    gates={"dependents": "loop.gates.dependents", "stable": "loop.gates.stable"},
    data_sets={"retraining": "loop.retrain"},
    sieves=("loop.forgotten",),
    extensions=(
        "loop.service.experiment",
        "loop.service.feedback",
        "loop.service.log_predictions",
        "loop.service.monitoring",
    ),
    verifiers=("loop.service.signatures",),
    listeners=("loop.audit", "loop.sign"),
)
