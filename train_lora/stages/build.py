"""Models from the tables of a configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any


def make(kind: type[Any], arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 - an instance of `kind`
    """Build a model. Raises `ValueError` that names the arguments which the model does not have, and those it has."""
    known = list(inspect.signature(kind.__init__).parameters)[1:]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ValueError(f"{kind.__name__} has no argument {', '.join(unknown)}; it has {', '.join(known)}")
    return kind(**arguments)
