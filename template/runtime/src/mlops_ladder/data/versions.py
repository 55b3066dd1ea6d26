"""Data versions in DVC's cache and on its remote: the one module that knows how DVC keeps them."""

from pathlib import Path
from typing import Any

from ..core import files
from ..core.errors import ProjectError
from ..core.project import Project


def publish(project: Project, version: str) -> None:
    """Copy a data version to DVC's remote, so that the run which names it can be reproduced elsewhere."""
    from dvc.repo import Repo

    with Repo(str(project.folder)) as repo:
        listing, files = contents(repo, version)
        sent = repo.cloud.push([*files.values(), listing])  # the listing last: a version that is there is whole
        if sent.failed:
            raise ProjectError(f"{len(sent.failed)} files of data version {version[:8]} did not reach DVC's remote")


def ensure(project: Project, version: str) -> dict[Path, Path]:
    """Return where DVC's cache holds each file of a data version ({its path: its bytes}), fetched when it does not."""
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo(str(project.folder)) as repo:
        try:
            if not repo.cache.local.exists(f"{version}.dir"):
                repo.cloud.pull([HashInfo("md5", f"{version}.dir")])
            files = contents(repo, version)[1]
            found = {path: Path(repo.cache.local.oid_to_path(content.value)) for path, content in files.items()}
            if absent := [content for path, content in files.items() if not found[path].is_file()]:
                repo.cloud.pull(absent)
            for file in found.values():
                file.stat()
            return found
        except FileNotFoundError:
            where = "neither in DVC's cache nor on its remote (.dvc/config)"
            raise ProjectError(f"data version {version[:8]} is {where}") from None


def contents(repo: Any, version: str) -> tuple[Any, dict[Path, Any]]:
    """Return DVC's name of a data version and, a file of it, of the file's bytes."""
    from dvc_data.hashfile import load
    from dvc_data.hashfile.hash_info import HashInfo

    listing = HashInfo("md5", f"{version}.dir")
    tree: Any = load(repo.cache.local, listing)
    return listing, {Path(*key): content for key, _, content in tree}


def restore(project: Project, version: str, folder: Path) -> None:
    """Make FOLDER hold the files of a data version, byte by byte as they were."""
    files.mirror(ensure(project, version), folder)


def short(name: str) -> str:
    """Return NAME@VERSION as people write it, with the first 8 digits of its 32."""
    data, _, version = name.partition("@")
    return f"{data}@{version[:8]}" if version else data
