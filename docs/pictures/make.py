"""Make the pictures of the README and the site: `make pictures`. `--run DIR` takes a finished run, and trains none."""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from jinja2 import Environment, FileSystemLoader
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from snake_dist.evaluation.report import page_rows

HERE = Path(__file__).parent
ASSETS = Path(page_rows.__file__).parent / "assets"
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
SNAKE_DIST = [sys.executable, "-m", "snake_dist"]
LADDER = {
    "SmolLM2-135M-Instruct, untrained": "base",
    "greedy": "heuristic",
    "style `compact`, then its own games": "model",
    "bfs": "heuristic",
    "bfs-safe": "heuristic",
    "style `cycle`, second stage": "model",
}
"""Row of the first table of docs/results.md -> kind of player, which decides its colour."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="directory of a run with a report and TensorBoard's files")
    given = parser.parse_args().run
    play = [*SNAKE_DIST, "play", "--player", "hamiltonian-shortcuts", "--games", "1"]
    subprocess.run([*play, "--gif", HERE / "board.gif"], check=True)
    with tempfile.TemporaryDirectory() as temporary, browser() as open_page:
        run = given or train(Path(temporary) / "run")
        ladder(open_page, Path(temporary))
        report(open_page, run)
        tensorboard(open_page, run)
    for path in HERE.glob("*.png"):
        with Image.open(path) as image:
            image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def train(directory: Path) -> Path:
    """Train for about four minutes on two cores, and play."""
    flags = "--max-steps 60 --log-every 2 --eval-every 20 --report-to tensorboard --play-games 10 --output-dir"
    subprocess.run([*SNAKE_DIST, "train", *flags.split(), directory], check=True)
    return directory


@contextmanager
def browser() -> Iterator[Any]:
    """Yield a function (url, width, height, scheme) -> page of a headless Chromium."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)  # None: playwright's own
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])

        def open_page(url: str, width: int, height: int, scheme: str = "light") -> Page:
            page = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
            page.goto(url)
            return page

        yield open_page
        chromium.close()


def ladder(open_page: Any, directory: Path) -> None:
    """Draw the first table of docs/results.md as the report page draws its ladder."""
    rows = {}
    for line in (HERE.parent / "results.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip(" *") for cell in line.split("|")[1:-1]]
        number = (
            re.fullmatch(r"([\d.]+)(?: \[([\d.]+), ([\d.]+)\])?", cells[3].replace("*", "")) if len(cells) > 3 else None
        )
        if number and cells[0] in LADDER and cells[0] not in rows:
            mean, *interval = (float(part) for part in number.groups() if part)
            rows[cells[0]] = page_rows.on_axis(mean, interval or None, 99)
    shown = [{"name": name.replace("`", ""), "kind": kind, **rows[name]} for name, kind in LADDER.items()]
    template = Environment(loader=FileSystemLoader(ASSETS), autoescape=True).get_template("ladder.html.j2")
    table = template.render(ladder=shown, ladder_label="apples", axis_max="99 apples: a full board")
    style = (ASSETS / "page.css").read_text(
        encoding="utf-8"
    ) + "body { padding: 0 } section { margin: 0 } .ladder th { width: 17rem }"
    (directory / "ladder.html").write_text(
        f"<!doctype html><meta charset=utf-8><style>{style}</style><section>{table}</section>", encoding="utf-8"
    )
    page = open_page((directory / "ladder.html").as_uri(), 760, 200)
    page.screenshot(path=HERE / "ladder.png", full_page=True)


def report(open_page: Any, run: Path) -> None:
    """Show the page of a run on a desk, on a phone, and in the dark."""
    for name, width, height, scheme in (
        ("desk", 1100, 1150, "light"),
        ("phone", 390, 844, "light"),
        ("dark", 1100, 1150, "dark"),
    ):
        page = open_page((run / "report/report.html").absolute().as_uri(), width, height, scheme)
        page.screenshot(path=HERE / f"report-{name}.png")


def tensorboard(open_page: Any, run: Path) -> None:
    """Show a run in TensorBoard."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "tensorboard.main", "--logdir", run / "tensorboard", "--port", str(port)]
    url = f"http://localhost:{port}"
    with subprocess.Popen([*words, "--load_fast=false"], stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(url)
            page = open_page(f"{url}/?darkMode=false#timeseries", 1280, 860)
            page.wait_for_selector("text=eval", timeout=60_000)
            page.fill("input[placeholder='Filter tags (regex)']", "loss|accuracy|tokens_per_s|learning_rate")
            page.click("button[aria-label='Close side pane']")
            page.wait_for_timeout(8_000)  # the curves are drawn one after another
            page.screenshot(path=HERE / "tensorboard.png")
        finally:
            server.terminate()


def wait_for(url: str) -> None:
    for _ in range(120):
        try:
            urlopen(url, timeout=5).close()
        except (URLError, OSError):
            time.sleep(0.5)
        else:
            return
    raise SystemExit(f"{url}: no answer in a minute")


if __name__ == "__main__":
    main()
