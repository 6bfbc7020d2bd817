"""The TOML tables of this package."""

import pkgutil
import sys
from typing import Any


def table(name: str) -> dict[str, Any]:
    """Read one of the TOML tables of this package, such as ``"shapes.toml"``."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    data = pkgutil.get_data(__package__, name)
    assert data is not None
    return tomllib.loads(data.decode("utf-8"))
