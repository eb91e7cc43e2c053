"""`sample.py --explore`: a page of sliders, and the faces that follow them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from torch import Tensor

from eyescream_py.plots.client import PANE_WIDTH
from eyescream_py.plots.sliders import Slider
from eyescream_py.plots.windows import Plots, environment_of
from eyescream_py.results.explore import REACH, Explorer, Place, enlarged
from eyescream_py.results.grids import SampleOptions, load_G, load_refiner
from eyescream_py.results.refiner import Refiner
from eyescream_py.system.device import choose_device, set_threads
from eyescream_py.system.errors import UserError
from eyescream_py.system.idle import say_idle
from eyescream_py.system.voice import say

_LOOK_S = 1.0  # between two looks whether the page is still there
_SEEDS, _STOPS, _ENLARGED = 50, 5, 12
_LAST_SEED = 2**53 - 1  # a page's numbers are doubles
_NO_PAGE = "--explore: there is no page any more; --visdom_port chooses another port"
_WRITING = ("aws", "dataset", "export", "interpolate", "neighbours", "overwrite", "runs", "writeto")


def explore(options: SampleOptions, server: str, port: int, env: str) -> None:
    """Show the page until a signal ends the program; `env` names its environment if not empty.

    Raises UserError where there is no page or G has no directions.
    """
    _refuse(options)
    say_idle((True, "with --explore", ("batch_size", "D_base")))
    # six small pictures a move: more threads would wait for each other
    set_threads(options.threads if "threads" in options.typed else 1, typed=True)
    device = choose_device(options.gpu, "gpu" in options.typed)
    G, path, _ = load_G(options, device)
    explorer = Explorer(G)
    refiner = load_refiner(options, G, device) if _pair_is_there(options) else None
    env = env or f"explore-{environment_of(path)}"  # two explorers at one server never mix
    plots = Plots.open(True, server, port, env, needed_by="--explore")
    with contextlib.closing(plots):
        say("Open this address in a browser and move the sliders; Ctrl-C ends it.")
        _follow(plots, explorer, refiner, sliders_of(explorer, options.seed), path.stem)


def _refuse(options: SampleOptions) -> None:
    for name in _WRITING:
        if name in options.typed:
            raise UserError(f"--explore writes and compares nothing: leave --{name} out")
    if options.seed >= _LAST_SEED:
        raise UserError(f"--seed={options.seed}: with --explore below {_LAST_SEED}")


def _pair_is_there(options: SampleOptions) -> bool:
    """Whether somebody may want refined faces: not a word of them otherwise."""
    typed = options.typed & {"save_c2f32", "G_c2f32", "D_c2f32"}
    return bool(typed) or (Path(options.save_c2f32) / options.G_c2f32).is_file()


def sliders_of(explorer: Explorer, seed: int) -> tuple[Slider, ...]:
    """In the order in which `place_of` reads their values."""
    directions = [
        Slider(f"direction {number}", -REACH, REACH, 0.05, 0)
        for number in range(1, len(explorer.directions) + 1)
    ]
    return (
        Slider("seed of face A", 0, _LAST_SEED, 1, seed, typed=True),
        Slider("seed of face B", 0, _LAST_SEED, 1, seed + 1, typed=True),
        Slider("t: A (0) to B (1)", 0, 1, 0.01, 0),
        *directions,
    )


def place_of(sliders: tuple[Slider, ...], values: list[float]) -> Place | None:
    """The face that the page asks for; None where it speaks of other sliders."""
    if len(values) != len(sliders):
        return None
    taken = [slider.taken(value) for slider, value in zip(sliders, values, strict=True)]
    return Place(int(taken[0]), int(taken[1]), taken[2], tuple(taken[3:]))


def _follow(
    plots: Plots, explorer: Explorer, refiner: Refiner | None,
    sliders: tuple[Slider, ...], name: str,
) -> None:  # fmt: skip
    moves = plots.sliders("sliders", sliders, f"{name}: steps in standard deviations of the noise")
    shown: Place | None = None
    place = place_of(sliders, [slider.value for slider in sliders])
    if moves is None:
        raise UserError(_NO_PAGE)
    with contextlib.closing(moves):
        while not plots.given_up:
            if place is not None and place != shown:
                _show(plots, explorer, refiner, place)
                if shown is None:
                    _show_seeds(plots, explorer, place.a)
                shown = place
            values = moves.wait(_LOOK_S)
            place = place_of(sliders, values) if values else None
            if place is None and shown is not None and not moves.connected:
                # only what is sent finds out that the server died, and starts another
                _show(plots, explorer, refiner, shown)
    raise UserError(_NO_PAGE)


def _show(plots: Plots, explorer: Explorer, refiner: Refiner | None, place: Place) -> None:
    face = explorer.face(place)
    _show_one(plots, "face", face, f"{place.a} to {place.b}, t = {place.t:g}")
    if refiner is not None:
        refined = refiner.refine(face)
        _show_one(plots, "refined", refined, f"refined to {refiner.size} px")
    way = enlarged(explorer.way(place, _STOPS), PANE_WIDTH // _STOPS)
    plots.images("way", way, "the way from A to B", columns=_STOPS)


def _show_one(plots: Plots, window: str, face: Tensor, title: str) -> None:
    # few pixels on a large area are blots: no one sees a face in them
    width = min(PANE_WIDTH, _ENLARGED * face.shape[-1])
    plots.images(window, enlarged(face, width), title, width=width)


def _show_seeds(plots: Plots, explorer: Explorer, first: int) -> None:
    """Faces to choose from, by number."""
    last = first + _SEEDS - 1
    faces = enlarged(explorer.seeds(first, _SEEDS), PANE_WIDTH // 10)
    plots.images("seeds", faces, f"seeds {first} to {last}, row by row", columns=10)
