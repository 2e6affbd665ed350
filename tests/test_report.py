"""The page of a run and of a study: it parses, it is whole, it fetches nothing, and no text can break out."""

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from slif_jax.config import Config
from slif_jax.data import load
from slif_jax.report import report
from slif_jax.report.examples import example_users
from slif_jax.report.html import Html, join, table, tag
from slif_jax.train import train_and_evaluate
from slif_jax.workdir import WorkdirError

pytestmark = pytest.mark.usefixtures("standard_promotion")

NASTY = "<script>alert('1')</script> & \"quotes\""
VOID = {"meta", "link", "br"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(html.parser.HTMLParser):
    """Collects what is in a page and fails where an element is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def check_page(text: str) -> Page:
    """What holds for every page."""
    page = Page(text)
    assert page.named("html") == [{"lang": "en"}]
    assert not page.named("script")
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    targets = {attributes["href"][1:] for attributes in page.named("a") if attributes["href"]}
    assert targets <= set(ids)
    for drawing in page.named("svg"):
        assert drawing["aria-label"]
    assert len(page.named("caption")) == len(page.named("table"))
    return page


@pytest.fixture(scope="module")
def nasty_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Native layout; an id and a title that would be markup."""
    dataset = load("synthetic:users=30,items=30,clusters=2,seed=1")
    folder = tmp_path_factory.mktemp("data")
    rows = [(u, i, split) for split, part in dataset.splits.items() for u, i in part.tolist()]
    lines = "".join(f"{u}\t{i}\t{split}\n" for u, i, split in rows)
    (folder / "interactions.tsv").write_text(f"user\titem\tsplit\n{lines}")
    items = "".join(f"{n}\tid<{n}>\t{NASTY}\n" for n in range(30))
    (folder / "items.tsv").write_text(f"item\titem_id\ttitle\n{items}")
    users = "".join(f"{n}\t<b>u{n}</b>\n" for n in range(30))
    (folder / "users.tsv").write_text(f"user\tuser_id\n{users}")
    triples = "".join(f"{n}\t{n % 2}\t{30 + n % 5}\n" for n in range(30))
    (folder / "kg.tsv").write_text(f"head\trelation\ttail\n{triples}")
    np.save(folder / "visual.npy", np.asarray(dataset.features["visual"].values))
    return folder


@pytest.fixture(scope="module")
def run(nasty_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("report") / "run"
    config = Config(dataset=str(nasty_data), width=8, epochs=2, correlation_start=1, batch_size=128, eval_block=64)
    with jax.numpy_dtype_promotion("standard"):
        train_and_evaluate(config, workdir, progress="off", flags_text=f"--dataset={nasty_data}\n")
    return workdir


@pytest.fixture(scope="module")
def run_page(run: Path) -> str:
    with jax.numpy_dtype_promotion("standard"):
        return report(run)


STUDY = {
    "kind": "ablation",
    "title": f"Ablation on {NASTY}",
    "done": True,
    "command": f"python -m experiments.study --dataset='{NASTY}'",
    "seeds": [0, 1],
    "metrics": ["recall@20", "ndcg@20"],
    "alternative": "greater",
    "x_label": "",
    "arms": [
        {
            "label": label,
            "reference": reference,
            "group": "",
            "x": None,
            "config_hash": "c" * 64,
            "protocol": "strict",
            "selected_on": "valid",
            "data_fingerprint": "d" * 64,
            "split_fingerprint": "5" * 64,
        }
        for label, reference in (("full", None), ("no <b>loop</b>", "full"))
    ],
    "settings": {"full": Config().to_dict(), "no <b>loop</b>": {**Config().to_dict(), "self_loop": False}},
    "rows": [
        {
            "label": label,
            "part": "all",
            "users": 40,
            "runs": 2,
            "scores": {
                metric: {"mean": 0.3, "std": 0.01, "by_seed": [0.29, 0.31], "difference": gap, "p": p, "p_holm": p}
                for metric in ("recall@20", "ndcg@20")
            },
        }
        for label, gap, p in (("full", None, None), ("no <b>loop</b>", -0.1, 0.04))
    ],
    "cells": [
        {
            "arm": "full",
            "seed": 0,
            "run": "full-seed0",
            "best_epoch": 3,
            "epochs": 5,
            "valid": {"recall@20": None, "ndcg@20": None},
            "test": {"recall@20": 0.3, "ndcg@20": 0.2},
            "seconds": 12.0,
        }
    ],
    "environment": {"python": "3", "platform": "<p>", "devices": ["cpu"], "cpu_count": 2, "packages": {"jax": None}},
}


def test_a_run_page_is_whole(run_page: str, run: Path):
    page = check_page(run_page)
    assert page.headings[1:] == ["Result", "Training", "Items and users", "Examples", "Settings", "Provenance"]
    assert len(page.named("svg")) == 4  # loss, validation, correlation graph, groups
    result = json.loads((run / "result.json").read_text())
    assert f"{result['test']['recall@20']:.4f}" in run_page
    assert result["data_fingerprint"] in run_page
    assert result["split_fingerprint"] in run_page
    assert "--correlation_start" in run_page
    assert run_page.count("Liked (") == 3


def test_titles_and_ids_are_text(run_page: str):
    assert "<script" not in run_page
    assert "&lt;script&gt;" in run_page
    assert "User &lt;b&gt;u" in run_page


def test_no_users_and_no_model(run: Path, tmp_path: Path):
    assert "No users were asked for" in report(run, num_users=0)
    bare = tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("checkpoints"))
    page = report(bare)
    assert "No examples: " in page
    check_page(page)


def test_a_study_page_is_whole(tmp_path: Path):
    (tmp_path / "study.json").write_text(json.dumps(STUDY))
    text = report(tmp_path)
    page = check_page(text)
    assert page.headings[1:] == ["Result", "Runs", "Settings", "Provenance"]
    assert "0.3000 ± 0.0100" in text
    assert "--self_loop=false" in text
    assert "no &lt;b&gt;loop&lt;/b&gt;" in text
    assert "<b>loop" not in text


def test_what_is_no_finished_run_or_study_gets_one_line(tmp_path: Path, run: Path):
    with pytest.raises(WorkdirError, match="neither a run nor a study"):
        report(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({**STUDY, "done": False}))
    with pytest.raises(WorkdirError, match="not finished"):
        report(tmp_path)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished, ignore=shutil.ignore_patterns("result.json", "checkpoints"))
    with pytest.raises(WorkdirError, match=r"no result\.json"):
        report(unfinished)


def test_example_users_range_from_less_to_more_active():
    dataset = load("synthetic:users=60,items=40,clusters=3")
    users = example_users(dataset, 3)
    assert len(users) == 3
    assert set(users.tolist()) <= set(dataset.test[:, 0].tolist())
    assert len(example_users(dataset, 500)) <= 60


def test_everything_is_escaped_once():
    assert tag("p", "a < b", class_="x") == '<p class="x">a &lt; b</p>'
    assert tag("p", tag("b", "&")) == "<p><b>&amp;</b></p>"
    assert join(["<", Html("<br>")]) == "&lt;<br>"
    assert "&lt;i&gt;" in table("<i>", ["a"], [["b"]])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium found (chromium, google-chrome)")
def test_a_browser_shows_the_page(run_page: str, tmp_path: Path):
    (tmp_path / "page.html").write_text(run_page)
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [
            *command,
            f"--screenshot={tmp_path / 'page.png'}",
            "--window-size=1200,3000",
            f"file://{tmp_path / 'page.html'}",
        ],
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr.decode()
    import matplotlib.image

    picture = matplotlib.image.imread(tmp_path / "page.png")[..., :3]
    assert picture.shape[:2] == (3000, 1200)
    colours = {tuple(np.round(colour * 255).astype(int).tolist()) for colour in picture[::3, ::3].reshape(-1, 3)}
    assert (47, 127, 193) in colours  # the first line of a drawing
    assert len(colours) > 20
