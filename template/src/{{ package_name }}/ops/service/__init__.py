"""The service around a model. A later level adds a module to this folder; it is found, nothing here is edited.

A module that defines, at the start of a line,
- `SCHEME = "models"` and `resolve(uri) -> Servable` opens model URIs `models:...`; where such a URI can come to mean
  another model, `pin(uri) -> str` returns one that cannot, and `resolve` gets that;
- `extend(app, service)` is called once before the start: it adds routes and middleware to the FastAPI `app`, and to the
  `Service` endpoints (`add_endpoint`), async context managers that live as long as the app (`lifespans`) and functions
  called as a request is let in (`admitted`, which may turn it away), before each prediction (`asked`, which return the
  servable that is to answer), after it (`answered`) and when the response is out (`ended`).
A subclass of `Servable` overrides `predict(rows)`, which gets validated dicts and no table, or `answer(rows)`.
`endpoint.servable = other` swaps the model in one assignment: a request reads it once. `endpoint.told` is added to /model.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


def found(start: str) -> Iterator[ModuleType]:
    """Yield, by name, the modules of this folder in which a line begins with START; others are not imported."""
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if f"\n{start}" in file.read_text(encoding="utf-8"):
            yield importlib.import_module(f".{file.stem}", __package__)
