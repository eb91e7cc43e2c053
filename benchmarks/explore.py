"""How soon a face follows a slider of `sample.py --explore`.

    python -m benchmarks.explore

Moves a slider forty times in a headless Chromium and waits each time for the face to change.
Prints the median and the longest wait, and the command's CPU time per move.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.processes import cpu_seconds
from tests.e2e.chromium import Tab, open_tab
from tests.e2e.test_explore import SET, exploring
from tests.plots.test_plots import free_port

MOVES = 40
WAIT = """new Promise(done => {
  const panes = [...document.querySelectorAll('.window')];
  const face = panes.find(pane => pane.querySelector('.bar').innerText.includes('t = '));
  const image = face.querySelector('img'), before = image.src, start = performance.now();
  const look = () => {
    if (image.src !== before) done(performance.now() - start); else setTimeout(look, 1);
  };
  SET(3, VALUE);
  look();
})"""


def wait_ms(tab: Tab, value: float) -> float:
    """Milliseconds from a move of slider 3 to `value` until the face is another."""
    script = WAIT.replace("SET", SET).replace("VALUE", str(value))
    answer = tab.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
    return float(answer["result"]["value"])


def main() -> None:
    """Print both figures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        exploring(free_port()) as (process, url),
        open_tab(url, Path(folder) / "profile") as tab,
    ):
        tab.wait_for("document.querySelectorAll('.content-image').length === 3", 60)
        time.sleep(2)  # the windows glide to their places
        before = cpu_seconds(process.pid)
        waits = [wait_ms(tab, (move % 20 + 1) / 10) for move in range(MOVES)]
        cpu_ms = (cpu_seconds(process.pid) - before) / MOVES * 1000
        print(f"{MOVES} moves: median {statistics.median(waits):.0f} ms, longest {max(waits):.0f}")
        print(f"CPU {cpu_ms:.0f} ms each; load {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
