"""`python -m studies.report DIR DIR... --output=FILE`: the pages of sweeps and studies as one page.

A DIR is the --workdir of tools.sweep or the --output of studies.landscape. The page needs no other file.
"""

import html
import pathlib
import re

from sweeps import page
from training import cli, paths
from training.config import ConfigError

FLAGS = (
    ("directories", {"nargs": "+", "metavar": "DIR",
                     "help": "directories of sweeps and of studies.landscape, in the order of the page"}),
    ("--output", {"required": True, "metavar": "FILE", "help": "the page; an existing one is replaced"}),
    ("--title", {"default": "What pretraining buys", "help": "heading of the page"}),
    ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
)  # fmt: skip
# Of a study, and of its sweep.
PAGES = ("study/report.html", "minimal_pairs/report.html", "report.html")


def render(pages, title):
    """The page as text. Raises ConfigError for a file that is no page of a sweep or study."""
    parts = [_part(file) for file in pages]
    return (
        page.environment(pathlib.Path(__file__).parent)
        .get_template("report.html")
        .render(title=title, parts=parts, styles=dict.fromkeys(part["style"] for part in parts))
    )


def _part(file):
    """{'title', 'style', 'main'} of a page, as HTML; all pages have the frame base.html."""
    text = file.read_text(encoding="utf-8")
    found = re.search(
        r"<style>(.*)</style>.*<main>\s*<h1>(.*?)</h1>(.*)</main>", text, flags=re.DOTALL
    )
    if not found:
        raise ConfigError(
            f"{str(file)!r} is not a page of this project; expected a report of a sweep or study"
        )
    style, title, main = found.groups()
    return {"title": html.unescape(title.strip()), "style": style, "main": main}


def _page(directory):
    """The newest page of a directory."""
    files = [pathlib.Path(directory) / name for name in PAGES]
    files = [file for file in files if file.is_file()]
    if not files:
        raise ConfigError(
            f"{directory!r} has no report.html; expected the --workdir of tools.sweep, after python -m "
            f"tools.sweep ... --report, or the --output of studies.landscape"
        )
    return max(files, key=lambda file: file.stat().st_mtime)


def main(argv):
    """The command line of this file."""
    given = cli.flags_parser(__doc__, FLAGS).parse_args(argv)
    file = pathlib.Path(given.output)
    if not file.absolute().parent.is_dir() or file.is_dir():
        raise ConfigError(f"--output={given.output!r}: expected a file in a directory that exists")
    pages = [_page(directory) for directory in given.directories]
    if file.resolve() in [each.resolve() for each in pages]:
        raise ConfigError(f"--output={given.output!r} is one of the pages; name another file")
    paths.write_text(file, render(pages, given.title))
    print(f"wrote {file}")


if __name__ == "__main__":
    cli.main(main)
