"""How soon the page of `ctrnn explore` reacts: from a slider's move until its pictures are painted.

    python benchmarks/explorer.py [--moves N]

In a headless chromium that is installed, of the default network. Beside it, what of that the
pictures take to compute. Needs the extras dev and explore.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
from playwright.sync_api import sync_playwright

NOTE = 'Bokeh.documents[0].get_model_by_name("note").text'
# Moves a slider; the seconds until the picture of it is painted.
REACTION = """([name, value]) => new Promise(done => {
    const model = name => Bokeh.documents[0].get_model_by_name(name)
    const number = () => parseInt((model("note").text.match(/picture (\\d+)/) ?? [0, -1])[1])
    const before = number(), start = performance.now()
    const look = () => number() > before
        ? requestAnimationFrame(() => requestAnimationFrame(
            () => done((performance.now() - start) / 1000)))
        : setTimeout(look, 1)
    model(name).value = value
    look()
})"""


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--moves", type=int, default=20)
    moves = options.parse_args().moves
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        sys.exit("chromium: expected to be installed")
    command = [sys.executable, "-m", "ctrnn_jax", "explore", "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        try:
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.goto(address)
                page.get_by_text("picture 1, computed").wait_for(timeout=90_000)
                taken, computed = [], []
                for k in range(moves + 3):
                    value = 0.01 + 0.001 * (k % 20 + 1)
                    taken.append(page.evaluate(REACTION, ["dt", value]))
                    computed.append(float(re.findall(r"in ([\d.]+) s", page.evaluate(NOTE))[0]))
                browser.close()
        finally:
            server.send_signal(signal.SIGINT)
    for what, values in (("reaction", taken[3:]), ("computing", computed[3:])):  # as it goes on
        low, median, high = np.quantile(values, (0, 0.5, 0.9))
        print(f"{what}: median {median:.3f} s, least {low:.3f}, 90 % below {high:.3f}")


if __name__ == "__main__":
    main()
