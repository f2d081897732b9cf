"""YAML whose scripts are readable blocks."""

import yaml


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)  # lists are indented

    def ignore_aliases(self, data):
        return True


def _text(dumper, text):
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(tree: dict) -> str:
    """A document, with keys in their order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=1000)
