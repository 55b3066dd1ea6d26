"""Level 3, automated deployment: gates, environments with sign-off, swap and rollback, lineage."""

from ..core.levels import Level

LEVEL = Level(
    number=3,
    commands={
        "approve": "release.approve",
        "audit-pack": "release.audit_pack",
        "catalog": "release.catalog",
        "deploy": "release.deploy",
        "deploy-pipeline": "release.deploy_pipeline",
        "explain": "release.explain",
        "export-contract": "release.export_contract",
        "feature-tables": "data.feature_tables",
        "gate": "release.gate",
        "keys": "serving.keys",
        "lineage": "release.lineage",
        "on-register": "release.on_register",
        "policy": "release.policy",
        "replicate-data": "release.replicate_data",
        "rollback": "release.rollback",
        "run-pipeline": "release.run_pipeline",
        "score-batch": "serving.score_batch",
        "share": "release.share",
        "uptime": "serving.uptime",
    },
    gates={
        "behaviour": "release.gates.behaviour",
        "contract": "release.gates.contract",
        "fairness": "release.gates.fairness",
        "footprint": "release.gates.footprint",
        "parity": "release.gates.parity",
        "quality": "release.gates.quality",
        "sanity": "release.gates.sanity",
        "slices": "release.gates.slices",
    },
    openers={"env": "release.serve_environment", "pyfunc": "release.serve_pyfunc"},
    data_sets={"featured": "data.feature_tables"},
    extensions=("serving.endpoints", "serving.table_lookup", "serving.limits", "serving.watch"),
    hasteners=("serving.onnx",),
)
