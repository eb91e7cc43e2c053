"""A Visdom window of sliders: how it is drawn, and what its page says when one of them is moved.

Visdom's own windows of inputs have no sliders; a text window is HTML that may have some. Its
script speaks on the page's socket as Visdom's own windows do (`forward_to_vis`).
"""

from __future__ import annotations

import html
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from eyescream_py.plots.client import PANE_WIDTH

EVENT = "Sliders"
MOST = 40  # sliders in a window
_NAME_LENGTH = 80
_ROW, _EDGES = 30, 76  # pixels; the latter: title, button and margins

# It follows a line that says which window it is in: eid, target, event_type.
_SCRIPT = """
const box = this.parentNode;
const path = location.pathname.split('/env/')[0].split('/compare/')[0].replace(/[/]$/, '');
const fields = [...box.querySelectorAll('input')];
let line = null;
box.oninput = () => {
  fields.forEach(field => {
    if (field.type === 'range') field.nextElementSibling.textContent = field.value;
  });
  if (line === null || line.readyState > 1) {
    line = new WebSocket(location.origin.replace('http', 'ws') + path + '/socket');
    line.onopen = box.oninput;
  } else if (line.readyState === 1) {
    line.send(JSON.stringify({cmd: 'forward_to_vis', data: {
      eid, target, event_type, pane_data: false, values: fields.map(field => +field.value)}}));
  }
};
box.onkeydown = box.onkeypress = event => event.stopPropagation();
box.querySelector('button').onclick = () => {
  fields.forEach(field => {
    if (field.type === 'range') field.value = field.defaultValue;
  });
  box.oninput();
};
box.oninput();
"""
_STYLE = """
.es-sliders { padding: 10px 14px; font-size: 13px; }
.es-sliders label { display: flex; align-items: center; height: 30px; margin: 0; }
.es-sliders span { width: 150px; }
.es-sliders input { flex: 1; min-width: 0; }
.es-sliders input[type=number] { border: 1px solid #aaa; padding: 1px 4px; }
.es-sliders output { width: 44px; padding: 0; text-align: right; font-size: 13px; }
.es-sliders button { border: 1px solid #aaa; padding: 4px 10px; margin-top: 6px; }
"""


@dataclass(frozen=True)
class Slider:
    """A number from `low` to `high` that a visitor of the page sets: by dragging, or, where it is
    `typed`, in a field."""

    name: str
    low: float
    high: float
    step: float
    value: float
    typed: bool = False

    def taken(self, value: float) -> float:
        """The value nearest to what a page sent that the slider can have."""
        inside = min(max(value, self.low), self.high)
        return round(inside) if self.typed else inside


def sliders_message(
    window: str, env: str, title: str, sliders: tuple[Slider, ...]
) -> dict[str, Any]:
    """The message that shows `sliders`; a server of this package draws them anew and compares."""
    content = {
        "type": "text",
        "content": pane(window, env, sliders),
        "sliders": [asdict(slider) for slider in sliders],
    }
    height = _EDGES + _ROW * len(sliders)
    return {
        "win": window,
        "eid": env,
        "data": [content],
        "opts": {"title": title, "width": PANE_WIDTH, "height": height},
    }


def pane(window: str, env: str, sliders: tuple[Slider, ...]) -> str:
    """The window's HTML. No name in it can become a tag or a script: all of them are escaped."""
    script = f"const [eid, target, event_type] = {json.dumps([env, window, EVENT])};{_SCRIPT}"
    rows = "".join(_row(slider) for slider in sliders)
    return (
        f'<div class="es-sliders"><style onload="{html.escape(script)}">{_STYLE}</style>{rows}'
        "<button>sliders back to their start</button></div>"
    )


def _row(slider: Slider) -> str:
    kind = "number" if slider.typed else "range"
    shown = "" if slider.typed else f"<output>{slider.value:g}</output>"
    return (
        f"<label><span>{html.escape(slider.name)}</span>"
        f'<input type="{kind}" min="{_text(slider.low)}" max="{_text(slider.high)}" '
        f'step="{_text(slider.step)}" value="{_text(slider.value)}">{shown}</label>'
    )


def _text(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def read_sliders(rows: Any) -> tuple[Slider, ...]:
    """Sliders of a message. Raises ValueError for anything else."""
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST:
        raise ValueError("no list of sliders")
    return tuple(_read_slider(row) for row in rows)


def _read_slider(row: Any) -> Slider:
    if not isinstance(row, dict) or set(row) != {field.name for field in fields(Slider)}:
        raise ValueError("no slider")
    numbers = [row[name] for name in ("low", "high", "step", "value")]
    if not isinstance(row["name"], str) or len(row["name"]) > _NAME_LENGTH:
        raise ValueError("a slider's name is none")
    if not all(_is_number(number) for number in numbers) or not isinstance(row["typed"], bool):
        raise ValueError("a slider's numbers are none")
    return Slider(**row)


def read_move(packet: Any) -> tuple[str, str, list[float]] | None:
    """(environment, window, a value per slider) of what a page sent; None where it is no such
    thing."""
    if not isinstance(packet, dict) or packet.get("event_type") != EVENT:
        return None
    env, window, values = packet.get("eid"), packet.get("target"), packet.get("values")
    if not isinstance(env, str) or not isinstance(window, str):
        return None
    if not isinstance(values, list) or not 0 < len(values) <= MOST:
        return None
    if not all(_is_number(value) for value in values):
        return None
    return env, window, [float(value) for value in values]


def move_message(env: str, window: str, values: list[float]) -> dict[str, Any]:
    """What `read_move` reads."""
    return {"eid": env, "target": window, "event_type": EVENT, "values": values}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e18 and math.isfinite(value)
