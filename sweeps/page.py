"""The environment in which pages are rendered: sweeps, studies and tools/compare.py share base.html
and style.css."""

import pathlib

import jinja2


def environment(*folders):
    """A jinja2 environment of the templates in some folders, and of this package."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, pathlib.Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
