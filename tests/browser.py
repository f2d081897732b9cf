"""A real browser that opens a page and measures it, for the tests of pages."""

import html
import json
import pathlib
import re
import shutil
import subprocess

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
needed = pytest.mark.skipif(PROGRAM is None, reason="no chromium or google-chrome")
_FRAME = """<!doctype html><body><pre></pre>
<iframe id="f" style="width: %dpx; height: 900px" srcdoc="%s"></iframe>
<script>document.getElementById("f").onload = (event) => {
  const page = event.target.contentDocument, root = page.documentElement;
  const sizes = [...page.querySelectorAll("p, td, th, h1, h2, figcaption, span")]
    .map((each) => parseFloat(getComputedStyle(each).fontSize));
  const drawn = [...page.querySelectorAll("svg, img")];
  const boxes = drawn.map((each) => each.getBoundingClientRect());
  document.querySelector("pre").textContent = "found " + JSON.stringify({
    wide: root.scrollWidth, view: root.clientWidth, small: Math.min(...sizes), figures: drawn.length,
    loaded: drawn.every((each) => each.tagName != "IMG" || each.naturalWidth > 0),
    seen: boxes.every((box) => box.width > 250 && box.height > 100)});
};</script>"""


def measure(file, width=400):
    """Opens a page in a frame of some pixels; fails if its console has messages.

    Returns:
      {'wide': width of the content, 'view': of the frame, 'small': smallest font in pixels, 'figures':
      number of pictures, 'loaded': all have content, 'seen': all have a visible size}.
    """
    folder = pathlib.Path(file).parent
    frame = folder / "frame.html"
    frame.write_text(_FRAME % (width, html.escape(pathlib.Path(file).read_text(encoding="utf-8"))))
    done = subprocess.run(
        [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={folder}/profile", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    return json.loads(html.unescape(re.search(r"found (\{.*?\})", done.stdout)[1]))
