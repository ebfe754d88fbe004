"""The templates of the HTML pages, which lie beside this module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jinja2


def template(name: str, **functions: Callable) -> jinja2.Template:
    """A template, which escapes what it is given and refuses names that it is not given.

    Args:
        name: of the file.
        functions: that it may call.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(functions)
    return environment.get_template(name)
