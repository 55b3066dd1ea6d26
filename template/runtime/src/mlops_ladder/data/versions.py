"""Data versions in DVC's cache and on its remote: the one module that knows how DVC keeps them."""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..core import files
from ..core.errors import ProjectError
from ..core.project import Project
from . import store

SUCCESSORS = "successors.json"  # in the store: data versions that rows were taken out of, and which ones they are now
Rest = Callable[[Path, Path, str], int | None]


def publish(project: Project, version: str) -> None:
    """Copy a data version to DVC's remote, so that the run which names it can be reproduced elsewhere."""
    from dvc.repo import Repo

    with Repo(str(project.folder)) as repo:
        listing, files = contents(repo, version)
        sent = repo.cloud.push([*files.values(), listing])  # the listing last: a version that is there is whole
        if sent.failed:
            raise ProjectError(f"{len(sent.failed)} files of data version {version[:8]} did not reach DVC's remote")


def ensure(project: Project, version: str) -> dict[Path, Path]:
    """Return where DVC's cache holds each file of a data version ({its path: its bytes}), fetched when it does not.

    Of one that rows were taken out of it is what is left.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    version = latest(project, version)
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


def places(project: Project) -> list[Path]:
    """Return the folders of DVC's cache and, where it is one, of its remote."""
    from dvc.repo import Repo

    with Repo(str(project.folder)) as repo:
        kept = Objects(repo, lambda *_: 0, project.folder)
        remote = [Path(kept.remote.path)] if kept.remote and kept.remote.fs.protocol == kept.cache.fs.protocol else []
        return [Path(kept.cache.path), *remote]


def cached(project: Project) -> list[str]:
    """Return the versions of folders in DVC's cache: data versions, and outputs of stages."""
    cache = places(project)[0]
    return sorted(file.parent.name + file.stem for file in cache.glob("[0-9a-f][0-9a-f]/*.dir"))


def delete(project: Project, old: list[str]) -> None:
    """Delete data versions from DVC's cache and from its remote, but for files that others have, too."""
    from dvc.repo import Repo

    with Repo(str(project.folder)) as repo:
        kept = Objects(repo, lambda *_: 0, project.folder)
        others = [version for version in kept.versions() if version not in old]
        needed = {one.value for version in others for one in contents(repo, version)[1].values()}
        for version in old:
            gone = {one.value for one in contents(repo, version)[1].values()} - needed
            for name in [*sorted(gone), f"{version}.dir"]:  # the list last: by it who was killed goes on
                kept.delete(name)


def successors(project: Project) -> dict[str, dict[str, Any]]:
    """Return what became of the data versions that rows were taken out of: version, rows that went, why."""
    file = store.read(project).home / SUCCESSORS
    return files.read_json(file) if file.is_file() else {}


def latest(project: Project, version: str) -> str:
    """Return the data version that VERSION is now."""
    known = successors(project)
    while version in known:
        version = known[version]["version"]
    return version


def rewrite(project: Project, rest: Rest, why: str, having: str = "") -> Counter[str]:
    """Take rows out of each data version in DVC's cache and on its remote; return how many, by the version that lost them.

    REST(file, target, suffix) writes what is left of a file, whose name ended in SUFFIX, to TARGET and returns how many
    rows are gone: 0 where there were none, None where all of it must go. The version becomes another one, which
    SUCCESSORS says with WHY before the old one is deleted: who was killed goes on. HAVING: only versions with that file.
    """
    from dvc.repo import Repo

    with Repo(str(project.folder)) as repo, tempfile.TemporaryDirectory() as scratch:
        cache = Objects(repo, rest, Path(scratch))
        taken, old, kept = Counter[str](), list[str](), set[str]()
        for version in list(cache.versions()):
            entries = contents(repo, version)[1]
            wanted = not having or Path(having) in entries
            if wanted and (gone := {path: one for path, one in entries.items() if cache.loses(one.value, path.suffix)}):
                taken[version] = sum(cache.rest[one.value][0] or 0 for one in gone.values())
                if version not in successors(project):
                    replace(project, repo, version, cache, taken[version], why)
                elif (known := successors(project)[version])["why"] == why:  # killed: some of it is gone already
                    taken[version] = known["rows"]
                old.append(version)
            elif wanted and version in successors(project):  # left half deleted
                old.append(version)
            else:
                kept |= {one.value for one in entries.values()}
        if not having:  # files that are no folder's
            listed = kept.union(*({one.value for one in contents(repo, version)[1].values()} for version in old))
            for name in set(cache.files()) - listed:
                cache.loses(name)
        lost = [name for name, (n_rows, _) in cache.rest.items() if n_rows != 0 and name not in kept]
        for name in [*lost, *(f"{version}.dir" for version in old)]:  # the list last: by it who was killed goes on
            cache.delete(name)
        return taken


def replace(project: Project, repo: Any, version: str, cache: "Objects", n_rows: int, why: str) -> None:
    """Make the data version that VERSION is from now on, on DVC's remote too, and say so in SUCCESSORS."""
    new = cache.listing(contents(repo, version)[1])
    if cache.remote and cache.remote.exists(f"{version}.dir"):
        publish(project, new)
    file = store.read(project).home / SUCCESSORS
    known = successors(project) | {version: {"version": new, "rows": n_rows, "why": why}}
    files.replaced(file, (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())


class Objects:
    """The files in DVC's cache by the hash of their bytes, and what is left of those that lose rows."""

    def __init__(self, repo: Any, take: Rest, scratch: Path) -> None:
        self.cache, self.take, self.scratch = repo.cache.local, take, scratch
        self.remote = repo.cloud.get_remote_odb() if repo.config["core"].get("remote") else None
        self.rest: dict[str, tuple[int | None, str]] = {}  # rows that are gone, hash of what is left

    def versions(self) -> Iterator[str]:
        yield from (name.removesuffix(".dir") for name in self.names() if name.endswith(".dir"))

    def files(self) -> Iterator[str]:
        yield from (name for name in self.names() if not name.endswith(".dir"))

    def names(self) -> list[str]:
        return sorted(file.parent.name + file.name for file in Path(self.cache.path).glob("[0-9a-f][0-9a-f]/*"))

    def loses(self, name: str, suffix: str = "") -> bool:
        """Return whether the file of hash NAME has rows that must go; one that is not in the cache has none."""
        file, part = Path(self.cache.oid_to_path(name)), self.scratch / name
        if name not in self.rest:
            n_rows, left = self.take(file, part, suffix) if file.is_file() else 0, ""
            if n_rows:
                left = hashlib.md5(part.read_bytes(), usedforsecurity=False).hexdigest()
                self.cache.add(str(part), self.cache.fs, left)
                part.unlink(missing_ok=True)
            self.rest[name] = n_rows, left
        return self.rest[name][0] != 0

    def listing(self, entries: dict[Path, Any]) -> str:
        """Keep the list of what is left of ENTRIES; return the data version that it is."""
        from dvc_data.hashfile.tree import Tree

        left = {
            path: self.rest[one.value] if self.loses(one.value) else (0, one.value) for path, one in entries.items()
        }
        tree = Tree.from_list(
            [{"md5": name, "relpath": path.as_posix()} for path, (n_rows, name) in left.items() if n_rows is not None]
        )
        tree.digest()
        self.cache.add(tree.path, tree.fs, tree.oid)
        return str(tree.oid).removesuffix(".dir")

    def delete(self, name: str) -> None:
        for place in filter(None, (self.remote, self.cache)):  # the cache last: by it is found what is on the remote
            if place.exists(name):
                place.delete(name)
