"""Who somebody is: one person under several spellings, and a signature as the proof of a name."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mlops_ladder.core import people
from projects import ROOT

PAGE = ROOT / "docs/levels/3-automated-deployment.md"
SECTION = "### A name is a claim, a signature proves it\n"


@pytest.mark.practice("human-approval-gate", "access-control")
@pytest.mark.parametrize(
    ("person", "other", "same"),
    [
        ("ada@example.org", "ADA@Example.org", True),
        ("ada@example.org", " ada@example.org\u00a0", True),
        ("ada@example.org", "ada@example\u200b.org", True),
        ("ada@example.org", "\uff41da@example.org", True),
        ("stra\u00dfe@example.org", "STRASSE@example.org", True),
        ("ada@example.org", "grace@example.org", False),
        ("", "", False),
        (None, " ", False),
    ],
)
def test_a_person_is_the_same_however_the_address_is_spelled(person: str, other: str, same: bool) -> None:
    assert people.same(person, other) is same
    assert people.among(other or "", [person or "nobody"]) is same
    assert people.among(other or "", ["anyone"])


@pytest.fixture
def bash(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a script in a new repository of ada's, with a key of hers, and nobody else's settings."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}

    def bash(script: str) -> subprocess.CompletedProcess[str]:
        words = ["bash", "-euc", script]
        return subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    made = bash(
        "git init --quiet && git config user.email ada@example.org && git config user.name Ada && mkdir .ssh conf\n"
        "ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519 && ssh-keygen -q -t ed25519 -N '' -f .ssh/other"
    )
    assert made.returncode == 0, made.stderr
    return bash


@pytest.mark.practice("human-approval-gate", "security-policies")
def test_a_signature_proves_who_approved_and_another_key_does_not(
    bash: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    section = PAGE.read_text(encoding="utf-8").partition(SECTION)[2].partition("\n### ")[0]
    typed = bash("\n".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL)))
    assert typed.returncode == 0 and 'Good "git" signature for ada@example.org' in typed.stderr, typed.stderr
    other = bash(
        'git config user.signingkey "$HOME/.ssh/other.pub"\n'
        "git commit --quiet --allow-empty --gpg-sign --message 'Approve version 2 for prod'\n"
        "git verify-commit HEAD"
    )
    assert other.returncode == 1, "the name is hers, the key is not"
    unsigned = bash("git commit --quiet --allow-empty --message 'Approve version 3' && git verify-commit HEAD")
    assert unsigned.returncode == 1
