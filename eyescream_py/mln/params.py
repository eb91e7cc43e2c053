"""Params.txt: its keys, their meaning, and the one frozen record that the rest of the room is
given.

The file has one `key value` per line (GiladMRI/MLN, myParams.py). A field's metadata holds its key
and help; the command line offers every key as a flag of the same name.
"""

from __future__ import annotations

import difflib
import math
import os
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from eyescream_py.mln.formats.text_format import parse_text, written
from eyescream_py.mln.ranges import check_ranges
from eyescream_py.system.errors import UserError
from eyescream_py.system.numbers import LARGEST
from eyescream_py.system.text import as_utf8, read_bounded

MOST_BYTES = 1 << 20  # of a Params.txt
BASIC_MODES = {"InputMode": "RegridTry3F", "NetMode": "RegridTry3C2_TS", "ImgMode": "Cmplx"}


def _key(name: str, default: Any, text: str) -> Any:
    return field(default=default, metadata={"key": name, "help": text})


@dataclass(frozen=True)
class Params:
    """Everything one protocol's training needs; see each field's help. Sizes are in pixels or
    samples, `k` in units of 1/FOV, times in the unit that the help names. Paths may be empty: not
    given.
    """

    session: str = _key("SessionNameBase", "MLN", "prefix of the output folders")
    image_side: int = _key("LabelsH", 128, "image side N in pixels (LabelsW must equal it)")
    image_width: int = _key("LabelsW", 128, "image width; must equal LabelsH")
    grid_side: int = _key("aDataH", 128, "k-grid side K (aDataW must equal it)")
    grid_width: int = _key("aDataW", 128, "k-grid width; must equal aDataH")
    k_max: float = _key("kMax", 64.0, "half-width of the k-grid in 1/FOV")
    samples: int = _key("nTraj", 0, "trajectory samples M; 0 takes the trajectory's own number")
    coils_in_data: int = _key(
        "nccInData", 0, "coils in the simulated data; 0 takes the coil maps' number"
    )
    coils: int = _key("nccToUse", 0, "the first C coils are used; 0 uses all")
    coils_in_scan: int = _key("RealDatancc", 0, "coils in the real data; 0: as the coil maps")
    feature_size: int = _key(
        "DataH", 0, "2 x samples x coils in the data, a cross-check; 0: no check"
    )
    neighbours: int = _key("nNeighbors", 12, "samples per k-grid point")
    segments: int = _key("nTimeSegments", 7, "time segments T of the network")
    trainable_fourier: int = _key("RelaxedFT", 0, "1: the Fourier layers are trained too")
    shared_fourier: int = _key(
        "UseSharedWightesInRelaxedFT",
        1,
        "0 with RelaxedFT 1: random layers that mix axis and segments",
    )
    complex_bias: int = _key("CmplxBias", 0, "1: a complex bias after each Fourier layer")
    phase_only_weight: float = _key("WPhaseOnly", 0.0, "weight of mean ||F|-1| with RelaxedFT 1")
    learning_rate: float = _key(
        "learning_rate_start",
        0.002,
        "Adam's first learning rate; with Init regression or covariance a share of each weight's "
        "size per step",
    )
    half_life: float = _key(
        "learning_rate_half_life",
        5000.0,
        "below 1000: minutes, else batches, in which the rate halves",
    )
    batch_size: int = _key("batch_size", 16, "images per batch")
    train_minutes: float = _key("train_time", 120.0, "minutes of training")
    picture_minutes: float = _key("summary_period", 0.5, "minutes between pictures")
    checkpoint_minutes: float = _key("checkpoint_period", 20.0, "minutes between checkpoints")
    l1_weight: float = _key(
        "WL1_Lambda", 0.0, "kept for old files: there is no activation it applies to"
    )
    l2_weight: float = _key("WL2_Lambda", 0.0, "weight of half the sum of squares of all weights")
    quick_failure_minutes: float = _key(
        "QuickFailureTimeM", 3.0, "minutes until the one check of the loss"
    )
    quick_failure_loss: float = _key(
        "QuickFailureThresh", 0.3, "stop there if the loss is above this"
    )
    noise: float = _key("noise_level", 0.0, "standard deviation of the noise on each real feature")
    bank_size: int = _key("BankSize", 0, "signal-bank slots; 0: every example is simulated anew")
    bank_uses: int = _key("BankK", 7, "how often a slot is used before it is simulated again")
    phase_linear: float = _key("RandomPhaseLinearFac", 5.0, "linear part of the random phase")
    phase_quadratic: float = _key(
        "RandomPhaseQuadraticFac", 0.1, "quadratic part of the random phase"
    )
    phase_scale: float = _key("RandomPhaseScaleFac", 2.0, "scale of the random phase, in turns")
    show_scan: int = _key(
        "ShowRealData", 0, "1: the first picture row shows the scan of RealDataFN"
    )
    scan_file: str = _key("RealDataFN", "", ".mat of a scan (key Data)")
    run_on_data: int = _key("LoadAndRunOnData", 0, "1: this file is for `reconstruct`")
    run_checkpoint: str = _key("LoadAndRunOnData_checkpointP", "", "checkpoint to reconstruct with")
    run_prefix: str = _key(
        "LoadAndRunOnData_Prefix", "", "scans are <prefix>01.mat, <prefix>02.mat, ..."
    )
    run_output: str = _key("LoadAndRunOnData_OutP", "", "folder for OnRealDataXX.mat")
    run_count: int = _key("HowManyToRun", 1, "number of scans, counted inclusively")
    segments_folder: str = _key("BaseTSDataP", "", "folder with B0TS.mat and SensCC1.mat")
    trajectory_folder: str = _key("BaseNUFTDataP", "", "folder with TrajForNUFT.mat")
    images: str = _key(
        "DatasetMatFN", "", "training images: .mat, HDF5 or a folder; empty: phantoms"
    )
    images_to_load: int = _key("nToLoad", 10000, "at most this many training images")
    first_k_weights: str = _key("InitForRFN", "", ".mat with k-layer weights to start from")
    first_image_weights: str = _key("InitForLFN", "", ".mat with I-layer weights to start from")
    k_grid: str = _key(
        "kGrid", "legacy", "legacy or matched (grid, Fourier and pixel positions agree)"
    )
    init: str = _key(
        "Init",
        "random",
        "random (the original), regression (least squares over examples, per grid point) or "
        "covariance (the same for white images, from coil maps and B0 alone)",
    )
    init_examples: int = _key(
        "InitExamples", 400, "simulated examples for Init regression and for the sweeps"
    )
    init_channels: int = _key(
        "InitChannels", 1, "virtual coils of the start; must divide nTimeSegments"
    )
    init_sweeps: int = _key("InitSweeps", 3, "conjugate-gradient sweeps after either start")
    init_ridge: float = _key(
        "InitRidge", 1e-3, "the start's ridge, relative to the mean signal power"
    )
    readout_ms: float = _key("AcqTime", 10.0, "readout duration in ms (B0 acts over it)")
    simulated_segments: int = _key("nSimSegments", 7, "time segments Q where a B0 map makes them")
    use_b0: int = _key("UseB0", 1, "0: B0TS.mat is ignored even where it exists")
    echo_times: str = _key(
        "EchoTimes", "", "multi-echo output: comma-separated ms; needs B0 in B0TS.mat"
    )
    seed: int = _key("Seed", 1, "seed of weights and examples")


PATH_FIELDS = (
    "scan_file",
    "run_checkpoint",
    "run_prefix",
    "run_output",
    "segments_folder",
    "trajectory_folder",
    "images",
    "first_k_weights",
    "first_image_weights",
)

# Keys of the original whose value follows from others, or that its code never reads here.
FIXED_KEYS = {
    "InputMode",
    "NetMode",
    "ImgMode",
    "DataW",
    "channelsIn",
    "channelsOut",
    "achannelsIn",
    "DiscStartMinute",
    "NumFeatPerChannel",
    "NumTotalFeat",
    "MapSize",
    "dataset",
}


def key_fields() -> dict[str, Field[Any]]:
    """Key of Params.txt -> dataclass field."""
    return {item.metadata["key"]: item for item in fields(Params)}


def read_params(
    path: str | Path, overrides: dict[str, Any] | None = None, lenient: bool = False
) -> Params:
    """Params.txt plus `overrides` (by key, from flags) -> checked Params.

    `$BASE$` in path values is the working directory. Unknown keys are an error that names them,
    with the nearest known key, unless `lenient`. Raises UserError also for values of the wrong kind
    or outside their range.
    """
    path = Path(path)
    try:
        text = as_utf8(read_bounded(path, MOST_BYTES)).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--params {path}: cannot be read ({reason}); give a text file of `key value` lines"
        ) from None
    values = parse_text(text.replace("\r", ""), str(path))
    if not values:
        raise UserError(f"--params {path}: holds no setting; give lines of `key value`")
    name = f"{path} and the flags" if overrides else str(path)
    return params_from(values | (overrides or {}), name, lenient)


def params_from(values: dict[str, Any], name: str = "flags", lenient: bool = False) -> Params:
    """Values by key -> checked Params; see `read_params`."""
    known = key_fields()
    unknown = [key for key in values if key not in known and key not in FIXED_KEYS]
    if unknown and not lenient:
        raise UserError(
            f"{name}: unknown {', '.join(map(_with_nearest, unknown))}; "
            "correct them, or pass --ignore-unknown"
        )
    _check_modes(values, name)
    chosen = {
        known[key].name: _convert(known[key], values[key], name) for key in values if key in known
    }
    params = replace(Params(), **chosen)
    here = str(Path.cwd())
    base: dict[str, Any] = {
        item: os.path.expanduser(getattr(params, item).replace("$BASE$", here))
        for item in PATH_FIELDS
    }
    base = {item: "" if path == "None" else path for item, path in base.items()}
    return _checked(replace(params, **base), name)


def _with_nearest(key: str) -> str:
    near = difflib.get_close_matches(key, [*key_fields(), *FIXED_KEYS], 1)
    return f"key {key}" + (f" (did you mean {near[0]}?)" if near else "")


def _check_modes(values: dict[str, Any], name: str) -> None:
    for key, mode in BASIC_MODES.items():
        if values.get(key, mode) != mode:
            raise UserError(f"{name}: {key} {values[key]} is not supported, only {mode} is")


def _convert(item: Field[Any], value: Any, name: str) -> Any:
    kind: type = type(item.default)
    if kind is str:
        # Names of files may hold any but NUL; the text format puts them in quotes.
        lowest = 1 if item.name in PATH_FIELDS else 32
        if any(ord(letter) < lowest for letter in str(value)):
            raise UserError(f"{name}: {item.metadata['key']} holds a control character; remove it")
        return str(value)
    try:
        number = float(value)
        if not abs(number) < LARGEST or (kind is int and number != int(number)):
            raise ValueError
    except (ValueError, OverflowError):
        words = "a whole number" if kind is int else "a number"
        shown = str(value)[:40]
        raise UserError(f"{name}: {item.metadata['key']} {shown}: give {words}") from None
    return kind(number)


def _check_session(params: Params, name: str) -> None:
    """The session's name becomes a folder's: a name, never a path."""
    session = params.session
    if not session or len(session) > 100 or session[0] == "." or {"/", "\\"} & set(session):
        raise UserError(
            f"{name}: SessionNameBase {session[:60]}: give a plain name without slashes, "
            "no leading dot, at most 100 letters"
        )


def _checked(params: Params, name: str) -> Params:
    keys = {item.name: item.metadata["key"] for item in fields(Params)}
    check_ranges(vars(params), keys, name)
    _check_session(params, name)
    for one, other in (("image_side", "image_width"), ("grid_side", "grid_width")):
        if getattr(params, one) != getattr(params, other):
            raise UserError(
                f"{name}: {keys[one]} {getattr(params, one)} and {keys[other]} "
                f"{getattr(params, other)} must be equal"
            )
    if 0 < params.bank_size < params.batch_size:
        raise UserError(
            f"{name}: BankSize {params.bank_size}: give 0 or at least batch_size "
            f"{params.batch_size}"
        )
    if params.simulated_segments < 2:
        raise UserError(f"{name}: nSimSegments {params.simulated_segments}: give at least 2")
    if params.k_grid not in ("legacy", "matched"):
        raise UserError(f"{name}: kGrid {params.k_grid}: give legacy or matched")
    if params.k_grid == "matched" and not (
        params.grid_side == params.image_side == 2 * params.k_max
    ):
        raise UserError(
            f"{name}: kGrid matched needs aDataH = LabelsH = 2 kMax, not "
            f"{params.grid_side}, {params.image_side} and 2 x {params.k_max:g}"
        )
    if params.init not in ("random", "regression", "covariance"):
        raise UserError(f"{name}: Init {params.init}: give random, regression or covariance")
    if params.coils and params.coils_in_data and params.coils > params.coils_in_data:
        raise UserError(
            f"{name}: nccToUse {params.coils} is more than nccInData {params.coils_in_data}"
        )
    echo_times(params)
    return params


def warnings_of(params: Params) -> list[str]:
    """A line for each setting that has no effect together with the others."""
    lines = []
    if params.phase_only_weight and not (params.trainable_fourier and params.shared_fourier):
        lines.append("WPhaseOnly has no effect: it needs RelaxedFT 1 and shared Fourier weights")
    if params.l1_weight:
        lines.append("WL1_Lambda has no effect: the network has no activations")
    return lines


def echo_times(params: Params) -> list[float]:
    """EchoTimes in seconds; empty for a single-echo network. Raises UserError where they are no
    times.
    """
    try:
        times = [float(part) / 1000 for part in params.echo_times.split(",") if part]
        if not all(0 <= time < math.inf for time in times):  # false for nan, too
            raise ValueError
        return times
    except ValueError:
        raise UserError(
            f"EchoTimes {params.echo_times}: give comma-separated milliseconds of at least 0"
        ) from None


def params_text(params: Params) -> str:
    """Params as the text of a Params.txt that reads back equal; empty strings are left out."""
    pairs = ((item.metadata["key"], getattr(params, item.name)) for item in fields(Params))
    return "".join(f"{key} {written(value)}\n" for key, value in pairs if value != "")
