"""tools.compare: what differs between runs, their metrics and predictions, and the page in a browser."""

import json
import re

import browser
import pytest

from tools import compare
from training.config import ConfigError


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


@browser.needed
def test_the_page_is_readable_in_a_browser_400_pixels_wide(runs):
    """No error in the console, no sideways scrolling, no small text."""
    file = runs / "page.html"
    compare.main([str(runs), f"--html={file}"])
    found = browser.measure(file)
    assert found["wide"] <= found["view"] <= 400
    assert found["small"] >= 13 and found["figures"] == 1 and found["seen"]
