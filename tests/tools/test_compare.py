"""tools.compare: what differs between runs, their metrics and predictions, and the page in a browser."""

import html
import json
import re
import shutil
import subprocess

import pytest

from tools import compare
from training.config import ConfigError

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def runs(tmp_path):
    """Two runs that differ in the learning rate, the version of JAX and a prediction."""
    for number, name in enumerate(("a", "b<b>")):
        run = tmp_path / name
        run.mkdir()
        config = {"optimizer": {"learning_rate": 1e-3 * (number + 1), "name": "adamw"},
                  "data": {"cache_dir": name}}  # fmt: skip
        content = {"kind": "finetune", "config": config, "model": {}}
        (run / "config.json").write_text(json.dumps(content))
        manifest = {
            "starts": [],
            "commit": "c0ffee",
            "versions": {"jax": f"0.{number}"},
            "total_steps": 9,
        }
        (run / "manifest.json").write_text(json.dumps(manifest))
        (run / "ended.json").write_text('{"state": "finished"}')
        lines = [{"step": s, "split": "train", "loss": 3.0 / (s + number)} for s in range(1, 10)]
        lines.append({"step": 9, "split": "validation", "accuracy": 0.5 + number / 10})
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        rows = ["id\tprediction\ttext"]
        rows += [f"{n}\t{'yes' if n < 7 + number else 'no'}\ttext <{n}>" for n in range(9)]
        (run / "predictions_test.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_only_what_differs_is_shown_side_by_side(runs, capsys):
    compare.main([str(runs), "--samples=2"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["optimizer.learning_rate", "0.001", "0.002"] in lines
    assert ["versions.jax", "0.0", "0.1"] in lines
    assert ["train/loss", "0.333333", "0.3"] in lines
    assert ["validation/accuracy", "0.5", "0.6"] in lines
    assert ["state", "finished", "finished"] in lines
    assert [
        "id:",
        "7",
        "text:",
        "text",
        "<7>",
        "no",
        "yes",
    ] in lines  # the row that differs is first
    shown = "\n".join(map(" ".join, lines))
    assert "adamw" not in shown and "c0ffee" not in shown and "cache_dir" not in shown
    with pytest.raises(ConfigError, match="is one run; name two"):
        compare.main([str(runs / "a")])


def test_the_page_needs_no_other_file_and_escapes_names(runs):
    file = runs / "page.html"
    compare.main([str(runs), f"--html={file}"])
    text = file.read_text()
    assert "b&lt;b&gt;" in text and "b<b>" not in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert text.count("<polyline") == 2 and "prefers-color-scheme: dark" in text


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome")
def test_the_page_is_readable_in_a_browser_400_pixels_wide(runs):
    """A frame measures the page: no error in the console, no sideways scrolling, no small text."""
    file = runs / "page.html"
    compare.main([str(runs), f"--html={file}"])
    frame = runs / "frame.html"
    frame.write_text(f"""<!doctype html><body><pre></pre>
<iframe id="f" style="width: 400px; height: 900px" srcdoc="{html.escape(file.read_text())}"></iframe>
<script>document.getElementById("f").onload = (event) => {{
  const page = event.target.contentDocument, root = page.documentElement;
  const sizes = [...page.querySelectorAll("p, td, th, h1, h2, figcaption, span")]
    .map((each) => parseFloat(getComputedStyle(each).fontSize));
  const drawn = [...page.querySelectorAll("svg")].map((each) => each.getBoundingClientRect());
  document.querySelector("pre").textContent = "found " + JSON.stringify({{
    wide: root.scrollWidth, view: root.clientWidth, small: Math.min(...sizes), figures: drawn.length,
    seen: drawn.every((box) => box.width > 250 && box.height > 100)}});
}}</script>""")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={runs}/profile", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(html.unescape(re.search(r"found (\{.*?\})", done.stdout)[1]))
    assert found["wide"] <= found["view"] <= 400
    assert found["small"] >= 13 and found["figures"] == 1 and found["seen"]
