"""The workers that conf/compute.yml names: processes of this machine or a cluster, by one joblib backend name."""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal, Self

import pydantic

from ..core import settings
from ..core.errors import ProjectError
from ..core.project import Project


class Compute(settings.Settings, frozen=True):
    """conf/compute.yml."""

    backend: Literal["local", "dask", "ray"]
    workers: pydantic.PositiveInt
    address: str | None
    together: pydantic.PositiveInt
    timeout_s: pydantic.PositiveFloat

    @pydantic.model_validator(mode="after")
    def cluster_has_an_address(self) -> Self:
        if self.backend != "local" and not self.address:
            raise ValueError(f"backend {self.backend} needs the address of a cluster")
        return self


def read(project: Project) -> Compute:
    return settings.read(project, "compute", Compute)


@contextlib.contextmanager
def workers(conf: Compute, *shared: Any) -> Iterator[str]:
    """Make `joblib.Parallel` compute where CONF says, and give a word about where that is.

    SHARED are tables that every task gets: a cluster is sent them once. Raises ProjectError when no cluster answers.
    """
    import joblib

    if conf.backend == "local":
        with joblib.parallel_config("loky", n_jobs=conf.workers, inner_max_num_threads=1):
            yield f"{conf.workers} processes"
    elif conf.backend == "dask":
        with dask_client(conf) as client:
            n_workers = len(client.scheduler_info()["workers"])
            with joblib.parallel_config("dask", scatter=list(shared), wait_for_workers_timeout=conf.timeout_s):
                yield f"{n_workers} workers of {conf.address}"
    else:
        start_ray(conf)
        with joblib.parallel_config("ray", n_jobs=-1):
            yield f"the Ray cluster at {conf.address}"


@contextlib.contextmanager
def dask_client(conf: Compute) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(conf.address, timeout=conf.timeout_s, set_as_default=True)
        client.wait_for_workers(1, timeout=conf.timeout_s)
    except (OSError, TimeoutError, ValueError) as error:
        raise ProjectError(
            f"no Dask cluster with a worker answers at {conf.address} within {conf.timeout_s:g} s "
            f"({type(error).__name__}): start it, or set backend: local in conf/compute.yml"
        ) from error
    with client:
        yield client


def start_ray(conf: Compute) -> None:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise ProjectError("conf/compute.yml says ray, which is not installed here: `uv add ray`") from None
    try:
        ray.init(address=conf.address, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise ProjectError(f"no Ray cluster answers at {conf.address}: {error}") from error
    register_ray()
