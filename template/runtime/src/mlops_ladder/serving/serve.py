"""Answer predictions over HTTP with a handed-over model; conf/serving.yml says how.

python -m {package} serve
python -m {package} serve --model models/model.skops --port 8080
curl -H 'Content-Type: application/json' -d @row.json http://127.0.0.1:8000/predict

http://127.0.0.1:8000/docs describes the routes, the columns and an example row.
"""

import argparse
import asyncio
import functools
import math
import os
import signal
from types import FrameType

from ..core.errors import ProjectError
from ..core.project import Project
from ..core.settings import read


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="models/model.skops", help="model URI, a file (default: %(default)s)")
    parser.add_argument("--host", help="address to bind (default: conf/serving.yml)")
    parser.add_argument("--port", type=int, help="port, 0 takes a free one (default: conf/serving.yml)")


def check(project: Project, options: argparse.Namespace) -> None:
    # One thread a prediction: a request is too small to share, and threads that wait for each other made it 12 times
    # slower. It counts only when set before numpy is loaded, hence here, and the imports in here and in `run`.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from .servable import check as check_model

    check_model(project, options.model)


def run(project: Project, options: argparse.Namespace) -> None:
    import uvicorn

    from .app import Service, Serving, bounded, make_app, sweep
    from .servable import resolve

    settings = read(project, "serving", Serving)
    service = Service(resolve(project, options.model), settings)
    config = uvicorn.Config(
        make_app(service),
        http=bounded(service),
        ws="none",  # whatever speaks it would be beyond the limits of connections
        lifespan="on",  # or it would answer 500 to all, when something fails at the start
        timeout_keep_alive=math.ceil(settings.idle_s),
        host=options.host or settings.host,
        port=settings.port if options.port is None else options.port,
        ssl_certfile=settings.tls_certificate and project.path(settings.tls_certificate),
        ssl_keyfile=settings.tls_key and project.path(settings.tls_key),
        timeout_graceful_shutdown=settings.grace_s,
        access_log=False,  # /metrics counts; a line a request costs more than the rest of the server
        server_header=False,
        log_level="warning",
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list | None = None) -> None:
            self.loop = asyncio.get_running_loop()  # first: it may be told to stop before it answers
            if config.ssl:  # a handshake counts as no connection yet
                shake = functools.partial(self.loop.create_server, ssl_handshake_timeout=settings.receive_s)
                self.loop.create_server = shake  # type: ignore[method-assign]
            await super().startup(sockets)
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            scheme, address = "https" if config.ssl else "http", f"[{host}]" if ":" in host else host
            version = service.main.servable.version
            print(f"serving {options.model} version {version} on {scheme}://{address}:{port}", flush=True)

        async def on_tick(self, counter: int) -> bool:
            if counter % 10 == 0:  # it ticks ten times a second
                sweep(self, self.loop.time())
            return await super().on_tick(counter)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """Answer on for drain_s, then finish what is in flight and exit 0; a second Ctrl-C does not wait."""
            if service.draining and sig == signal.SIGINT:
                self.should_exit = self.force_exit = True
            service.draining = True
            self.loop.call_soon_threadsafe(self.loop.call_later, settings.drain_s, setattr, self, "should_exit", True)

    try:
        Server(config).run()
    except SystemExit as error:
        raise ProjectError(
            f"the service did not start on {config.host}:{config.port}: the line above says why"
        ) from error
