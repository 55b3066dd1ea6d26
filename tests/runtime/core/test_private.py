"""What nobody else may read: stores by their mode, secrets by what git ignores."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from mlops_ladder.core import files
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT


@pytest.mark.practice("security-policies")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such mode")
def test_a_new_store_is_for_its_owner_and_one_that_is_shared_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracking.connect(FLIGHTS, "sqlite:///stores/mlflow.db")
    assert stat.S_IMODE(Path("stores/mlflow.db").stat().st_mode) == 0o600
    shared = Path("shared.db")
    shared.touch()
    shared.chmod(0o660)
    files.private(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o660


@pytest.mark.practice("security-policies")
def test_git_ignores_secrets_and_databases_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)

    def ignored(name: str) -> bool:
        words = ["git", "check-ignore", "--quiet", "--no-index", name]
        return subprocess.run(words, cwd=tmp_path, check=False).returncode == 0

    secret = [
        ".env",
        ".env.prod",
        "conf/.env",
        "conf/tls.key",
        "conf/tls.pem",
        "tls/server.pem",
        "id.key",
        "feedback.db",
    ]
    secret += ["predictions.sqlite3", "predictions.db-wal"]
    assert [name for name in secret if not ignored(name)] == []
    kept = [".env.example", "conf/signing.pub", "conf/signers", "conf/limits.yml", "src/keys.py", "tests/data/rows.db"]
    assert [name for name in kept if ignored(name)] == []
