"""Open a registered version only when its files are those that were signed; conf/signing.pub says whose word counts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import files
from ...core.project import Project
from ...release import releasing
from .. import sign

if TYPE_CHECKING:
    from mlflow import MlflowClient


def verify(project: Project, client: "MlflowClient", name: str, version: str, folder: Path) -> dict[str, Any]:
    """Raise Refused when FOLDER does not hold what a trusted key signed, its ONNX form included."""
    if not sign.public(project):
        return {"signature": f"not checked: {sign.PUBLIC} names no key"}
    made, found = client.get_model_version(name, version), releasing.contents(folder)
    sign.check_signature(project, made, "signature", sign.model_digest(found))
    if made.tags.get("fast_path") == "onnx":
        fast = found.get(releasing.FAST) or Path(client.download_artifacts(made.run_id, releasing.FAST))
        sign.check_signature(project, made, "fast_signature", files.sha256(fast))
    return {"signature": "verified"}
