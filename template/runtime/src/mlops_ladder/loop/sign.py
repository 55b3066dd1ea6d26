"""Sign the files of a registered version, so that the service opens only what was made here. `train` and `gate` do it too.

python -m {package} sign --make-key      # once: the private key for those who train, the public one into conf/signing.pub
python -m {package} sign 4 3             # versions that were registered before there was a key, or by one that got out

Signed are the version and its copies in the environments. Ed25519. The private key is MODEL_SIGNING_KEY or a file in ~/.config, never in git; the public ones stand in
conf/signing.pub, one a line. As soon as one does, the service refuses a version that none of them signed, or whose
files are not those that were signed.
"""

import argparse
import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import files, settings
from ..core.errors import ProjectError, Refused, UsageError
from ..core.progress import say
from ..core.project import Project
from ..data import store
from ..release import environments, releasing
from ..training import tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

PUBLIC = settings.CONF / "signing.pub"
SECRET = "MODEL_SIGNING_KEY"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", nargs="*", help="number of a version; `runs` lists them")
    parser.add_argument("--make-key", action="store_true", help="make a key and trust it from now on")


def check(project: Project, options: argparse.Namespace) -> None:
    if bool(options.version) == options.make_key:
        raise UsageError("name a VERSION to sign, or say --make-key")
    for version in options.version:
        tracking.check(project, version=version)


def run(project: Project, options: argparse.Namespace) -> None:
    if options.make_key:
        return make_key(project)
    chosen, client = tracking.open_store(project)
    versions = [tracking.find_version(client, chosen.model, version) for version in options.version]
    if not secret(project):
        raise ProjectError(f"no key to sign with: set {SECRET}, or make one with `sign --make-key`")
    if not trusted(project):
        raise ProjectError(
            f"the key here ({SECRET}, or {key_file(project)}) has no line in {PUBLIC}: what it signs is not opened"
        )
    for made in versions:
        client = tracking.open_store(project)[1]  # what is opened last is where MLflow looks up versions
        tracking.announce(project, "sign", model=made.name, version=str(made.version), reason="by hand")
        tags = sign(project, client, made)
        where, other = hand_on(project, made, tags, releasing.digest_of(releasing.gather(client, made)))
        print(f"{made.name} version {made.version} is signed{''.join(f', in {name} too' for name in where)}")
        if other:
            raise Refused(
                f"the copy of version {made.version} in {', '.join(other)} has other files, it is not signed: "
                f"`deploy {made.version}` puts these there"
            )


def hand_on(project: Project, made: Any, tags: dict[str, str], digest: str) -> tuple[list[str], list[str]]:
    """Give the copies of version MADE its signatures; return in which environments, and where a copy has other files."""
    signed, other = list[str](), list[str]()
    for name in environments.names(project):
        scheme, _, file = tracking.absolute(project, str(environments.read(project, name).tracking_uri)).partition(
            ":///"
        )
        if name == "dev" or (scheme == "sqlite" and not Path(file).is_file()):
            continue
        _, client = environments.open_store(project, name)
        copies = [
            one
            for one in client.search_model_versions(f"name = '{made.name}'")
            if one.tags.get("origin_version") == str(made.version)
        ]
        for there in copies:
            same = releasing.digest_of(releasing.contents(releasing.fetch(client, there))) == digest
            for tag, value in tags.items() if same else ():
                client.set_model_version_tag(there.name, str(there.version), tag, value)
            if there.version == environments.find_copy(client, made.name, str(made.version)).version:
                (signed if same else other).append(name)
    return signed, other


def make_key(project: Project) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    file = key_file(project)
    if file.exists():
        raise ProjectError(f"{file} is there already: move it away first, whoever has it can sign")
    key = Ed25519PrivateKey.generate()
    file.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(base64.b64encode(key.private_bytes_raw()).decode() + "\n")
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    with project.path(PUBLIC).open("a", encoding="utf-8") as out:
        out.write(public + "\n")
    print(
        f"private key in {file}; public key {public} in {PUBLIC}: commit that, and `sign` the version in use "
        "and the one before it, which `rollback` goes back to"
    )


def key_file(project: Project) -> Path:
    return Path.home() / ".config/mlops-signing" / f"{store.read(project).workspace}.key"


def secret(project: Project) -> Any:
    """Return the private key, None where there is none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    text = os.environ.get(SECRET) or (
        key_file(project).read_text(encoding="utf-8") if key_file(project).is_file() else ""
    )
    try:
        return Ed25519PrivateKey.from_private_bytes(base64.b64decode(text)) if text else None
    except ValueError:
        raise ProjectError(f"{SECRET}, or {key_file(project)}, holds no key: `sign --make-key` makes one") from None


def trusted(project: Project) -> bool:
    """Return whether there is a private key here and its public one is trusted."""
    key = secret(project)
    return key is not None and key.public_key().public_bytes_raw() in public(project)


def public(project: Project) -> list[bytes]:
    """Return the keys that are trusted; without one nothing is checked."""
    file = project.path(PUBLIC)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    try:
        return [base64.b64decode(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]
    except ValueError as error:
        raise ProjectError(f"{PUBLIC}: a line is no public key ({error}): `sign --make-key` writes one") from None


def heard(project: Project, action: str, facts: dict[str, Any]) -> None:
    """Sign what was registered and, once it is judged, its faster form; raises Refused when it changed in between."""
    if action not in ("register", "gate") or not public(project):
        return
    client = facts["client"]
    made = client.get_model_version(facts["model"], facts["version"])
    if action == "gate":
        check_signature(project, made, "signature", model_digest(releasing.contents(releasing.fetch(client, made))))
    if trusted(project):
        sign(project, client, made)
    else:
        why = f"the key here has no line in {PUBLIC}" if secret(project) else f"{SECRET} is not set here"
        say(f"version {made.version} is not signed: {why}, so no service will open it")


def sign(project: Project, client: "MlflowClient", made: Any) -> dict[str, str]:
    """Write the signature of the version's files and, if its gates chose its ONNX form, of that as tags; return these."""
    found = releasing.gather(client, made)
    parts = {"signature": model_digest(found)}
    if releasing.FAST in found:
        parts["fast_signature"] = files.sha256(found[releasing.FAST])
    for tag, digest in parts.items():
        parts[tag] = base64.b64encode(secret(project).sign(message(made, digest))).decode()
        client.set_model_version_tag(made.name, str(made.version), tag, parts[tag])
    return parts


def model_digest(found: dict[str, Path]) -> str:
    return releasing.digest_of({path: file for path, file in found.items() if path != releasing.FAST})


def message(made: Any, digest: str) -> bytes:
    """Return what is signed: the files and whose they are, so that no other version's signature fits."""
    return "\n".join([made.name, made.tags.get("origin_version", str(made.version)), digest]).encode()


def check_signature(project: Project, made: Any, tag: str, digest: str) -> None:
    """Raise Refused unless TAG of version MADE is a trusted key's signature of DIGEST."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    for key in public(project):
        try:
            given = base64.b64decode(made.tags.get(tag, ""))
            return Ed25519PublicKey.from_public_bytes(key).verify(given, message(made, digest))
        except (InvalidSignature, ValueError):
            continue
    version = made.tags.get("origin_version", made.version)
    why = "its files are not those that were signed" if made.tags.get(tag) else f"nobody signed it: `sign {version}`"
    raise Refused(f"{made.name} version {version} is not opened: {why}; {PUBLIC} says who is trusted")
