"""Runs pytest again and again without importing the same libraries each time: `python warm.py`, by a project's Python.

Each line on stdin is JSON, [folder, words, environment, file for what is printed]; the answer is a line with the exit code. Each
run is a process forked off this one, in which nothing of the project was imported yet. One that does not end is ended; what
it started and left behind ends with it.
"""

import contextlib
import importlib
import importlib.metadata
import json
import os
import signal
import sys

LIMIT_S = 900  # for what takes seconds: a planted fault may make a test wait for ever

# What takes most of the time; a level has some of them.
LIBRARIES = [
    "pytest",
    "pandas",
    "sklearn.ensemble",
    "skops.io",
    "fastapi.testclient",
    "uvicorn",
    "mlflow",
    "mlflow.sklearn",
]
LIBRARIES += [
    "great_expectations",
    "dvc.repo",
    "polars",
    "fairlearn.metrics",
    "onnxruntime",
    "hypothesis",
    "skl2onnx",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "matplotlib.pyplot",
    "networkx",
    "dulwich.client",
    "scmrepo.git",
    "IPython.core.display",
    "apprise",
]
LIBRARIES += sorted({plugin.module for plugin in importlib.metadata.entry_points(group="pytest11")})

for name in LIBRARIES:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)

for line in sys.stdin:
    folder, words, environ, said = json.loads(line)
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        print(code, flush=True)
        continue
    os.setpgid(0, 0)
    signal.alarm(LIMIT_S)
    os.chdir(folder)
    os.environ |= environ
    sys.path[:0] = environ["PYTHONPATH"].split(os.pathsep)
    sys.argv = ["pytest", *words]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    code = int(sys.modules["pytest"].main(words))
    sys.stdout.flush()
    os._exit(code)  # threads of the process that this one is a copy of are not here to be joined
