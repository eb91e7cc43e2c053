"""Write docs/torch7-classes.md from the golden networks: `python -m scripts.class_table`.

Run from the root of a checkout: every network of tests/golden/classes is run for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from eyescream_py.torch7.modules import conversion as modules
from eyescream_py.torch7.modules.codec import Codec
from eyescream_py.torch7.modules.registry import REGISTRY
from tests.torch7 import golden_classes as golden

PAGE = Path(__file__).resolve().parents[1] / "docs" / "torch7-classes.md"
HEAD = """# Lua Torch 7's classes: what opens

Written by `python -m scripts.class_table`; a test compares classes and sum with the code.

{networks} networks made by the real Lua Torch 7 (`tests/golden/classes/`) are opened by `to_module`
and run: {good} of {networks} agree, {gradients} of them with gradients of input and parameters
too. Agreement is 1e-5 (float) or 1e-10 (double) of max(1, |value|), and 1e-6 where Lua itself
computes a double layer in float (one network).
{open}
**read**: `to_module` makes a torch module of it. **write**, *anew*: `from_module` takes any
torch module of that kind; *as read*: a module that came from a file is written as that file again,
with its present weights (so are all others, bit for bit, until they are changed). **networks**:
golden networks with that class that agree, and of how many; where there are none, the class has a
test of its own formula or of a file in Lua's form.

| class | read | write | networks |
|---|---|---|---|
"""
REFUSED = """
## Refused

| what | why |
|---|---|
| criterions (nn.ClassNLLCriterion, ...) | losses are no networks: `load` reads them |
| nn.SpatialCrossMapLRN of an even size | Lua indexes planes by halves there and fails |
| classes of your own program | `register("my.Class", build)` adds them; the error names it |
| torch.DiskFile and the like | their contents have no layout, so the file cannot be read on |

What only training does: REINFORCE layers draw in training and pass no gradient (their reward is not
in the network), nn.PrintSize prints nothing, nn.NaN and nn.Profile are what they wrap.
"""


@dataclass
class Tally:
    """How many golden networks hold a class, and how many of them agree."""

    total: Counter[str] = field(default_factory=Counter)
    good: Counter[str] = field(default_factory=Counter)
    networks: int = 0
    agree: int = 0
    with_gradients: int = 0
    faults: list[str] = field(default_factory=list)


def tally() -> Tally:
    """Run every golden network."""
    count = Tally()
    for entry in golden.entries():
        try:
            wrong = golden.fault(entry)
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        case = golden.case_of(entry)
        names = {obj.typename for obj in golden.objects(case["net"])}
        count.networks += 1
        count.agree += not wrong
        count.with_gradients += not wrong and golden.has_gradients(case)
        count.total.update(names)
        if wrong:
            why = golden.differences().get(entry.name, "not known")
            count.faults.append(f"| {entry.name} | {wrong} | {why} |")
        else:
            count.good.update(names)
    return count


def codecs() -> dict[str, list[Codec]]:
    """The converters of each class, under its usual name."""
    found = defaultdict(list)
    for codec in modules._CODECS:
        for name in codec.lua:
            found[f"nn.{name}"].append(codec)
    for name, codec in registered():
        found[name].append(codec)
    return found


def registered() -> Iterable[tuple[str, Codec]]:
    """The classes of well-known projects, under their full names."""
    for codec in REGISTRY:
        yield codec.written, codec


def row(name: str, found: list[Codec], count: Tally) -> str:
    plain = name.removeprefix("nn.")
    names = [name, f"cudnn.{plain}", plain]
    total = sum(count.total[n] for n in dict.fromkeys(names))
    good = sum(count.good[n] for n in dict.fromkeys(names))
    anew = any(codec.python is not None for codec in found)
    written = "anew" if anew else "as read"
    return f"| {name} | yes | {written} | {f'{good} of {total}' if total else '-'} |\n"


def page(count: Tally) -> str:
    known = codecs()
    missing = "\n".join(["| differs | by | why |", "|---|---|---|", *count.faults])
    head = HEAD.format(
        networks=count.networks,
        good=count.agree,
        gradients=count.with_gradients,
        open=f"\n{missing}\n" if count.faults else "",
    )
    return head + "".join(row(name, known[name], count) for name in sorted(known)) + REFUSED


if __name__ == "__main__":
    PAGE.write_text(page(tally()))
