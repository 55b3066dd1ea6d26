"""The service against requests made up from its own OpenAPI document."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.practice("endpoint-security")
def test_whatever_is_sent_the_service_answers_as_it_documents(client: httpx.Client, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{client.base_url}/openapi.json"]
    command += ["--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", "30", "--seed", "1"]
    done = subprocess.run([*command, "--no-color"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
