from pathlib import Path

import pytest

from eyescream_py.mln.params import (
    Params,
    echo_times,
    key_fields,
    params_from,
    params_text,
    parse_text,
    read_params,
)
from eyescream_py.system.errors import UserError

# One line for every key of the original's in-vivo example, as it stands in its Params.txt.
ORIGINAL = """SessionNameBase RegridTry3C2_7TS_S01_Sli06
InputMode RegridTry3F
NetMode RegridTry3C2_TS
ImgMode Cmplx
nccInData 13
nccToUse 8
RealDatancc 13
nTraj 5114
DataH 132964
DataW 1
channelsIn 1
channelsOut 2
LabelsH 128
LabelsW 128
aDataH 128
aDataW 128
achannelsIn 192
kMax 56
nNeighbors 12
nTimeSegments 7
RelaxedFT 0
UseSharedWightesInRelaxedFT 1
CmplxBias 0
WPhaseOnly 0
learning_rate_start 0.002
learning_rate_half_life 30
batch_size 16
train_time 120
summary_period 0.5
checkpoint_period 20
WL1_Lambda 0.0
WL2_Lambda 0.0
QuickFailureTimeM 3
QuickFailureThresh 0.3
DiscStartMinute 500
ShowRealData 1
RealDataFN $BASE$/RealData/Sli6_r01.mat
LoadAndRunOnData 0
LoadAndRunOnData_checkpointP $BASE$/a
LoadAndRunOnData_Prefix $BASE$/b
LoadAndRunOnData_OutP $BASE$/c
HowManyToRun 3
BaseTSDataP $BASE$/RealData
BaseNUFTDataP $BASE$/RealData
DatasetMatFN None
nToLoad 10000
BankSize 0
BankK 7
RandomPhaseLinearFac 3
RandomPhaseQuadraticFac 0.05
RandomPhaseScaleFac 2
InitForRFN None
InitForLFN None
NumFeatPerChannel 2
NumTotalFeat 64
MapSize 3
dataset HCP
noise_level 0
"""


def test_an_error_says_that_flags_may_be_at_fault(tmp_path: Path) -> None:
    file = tmp_path / "Params.txt"
    file.write_text("batch_size 4\n")
    with pytest.raises(UserError, match=r"Params\.txt and the flags: batch_size 0: give"):
        read_params(file, {"batch_size": 0})


def test_every_key_of_the_original_is_read(tmp_path: Path) -> None:
    path = tmp_path / "Params.txt"
    path.write_text(ORIGINAL)
    params = read_params(path)
    assert (params.image_side, params.grid_side, params.k_max) == (128, 128, 56)
    assert (params.coils_in_data, params.coils, params.samples) == (13, 8, 5114)
    assert (params.neighbours, params.segments, params.half_life) == (12, 7, 30)
    assert params.scan_file == f"{Path.cwd()}/RealData/Sli6_r01.mat"
    assert params.images == "" == params.first_k_weights
    assert params.phase_linear == 3
    assert params.run_count == 3


def test_values_are_int_then_float_then_text() -> None:
    values = parse_text("a 3\nb 3.5\nc x3\n\n-\nd 1e-3")
    assert values == {"a": 3, "b": 3.5, "c": "x3", "d": 1e-3}
    assert isinstance(values["a"], int)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("LabelsH 128 4", "line 1: 3 words"),
        ("kMax", "line 1: 1 words"),
        ("kMax 5\nkMax 6", "line 2: kMax is given a second time"),
    ],
)
def test_broken_lines_are_named(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_text(text)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate_strat": 1}, "key learning_rate_strat .did you mean learning_rate_start"),
        ({"LabelsH": 64}, "LabelsH 64 and LabelsW 128 must be equal"),
        ({"batch_size": -8}, "batch_size -8: give a number above 0"),
        ({"batch_size": 2.5}, "batch_size 2.5: give a whole number"),
        ({"kMax": "wide"}, "kMax wide: give a number"),
        ({"kMax": "nan"}, "kMax nan: give a number"),
        ({"NetMode": "Unet"}, "NetMode Unet is not supported"),
        ({"kGrid": "matched", "kMax": 56}, "kGrid matched needs aDataH = LabelsH = 2 kMax"),
        ({"nccInData": 8, "nccToUse": 13}, "nccToUse 13 is more than nccInData 8"),
        ({"EchoTimes": "1,x"}, "EchoTimes 1,x"),
        ({"EchoTimes": "5,-5"}, "EchoTimes 5,-5: give comma-separated milliseconds of at least 0"),
        ({"BankSize": 4}, "BankSize 4: give 0 or at least batch_size 16"),
    ],
)
def test_wrong_values_are_named(values: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        params_from(values)


def test_unknown_keys_pass_when_asked() -> None:
    assert params_from({"Strange": 1}, lenient=True) == Params()


def test_text_reads_back_equal() -> None:
    params = params_from({"kMax": 61.5, "SessionNameBase": "S", "learning_rate_start": 1e-5})
    assert params_from(dict(parse_text(params_text(params)))) == params


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--params .*none\.txt"):
        read_params(tmp_path / "none.txt")


def test_keys_are_unique_and_echo_times_are_seconds() -> None:
    assert len(key_fields()) == len(Params.__dataclass_fields__)
    assert echo_times(params_from({"EchoTimes": "5,20"})) == [0.005, 0.02]


def test_a_file_without_a_setting_is_refused(tmp_path):
    (tmp_path / "P.txt").write_text("\n\n")
    with pytest.raises(UserError, match=r"--params \S+P\.txt: holds no setting"):
        read_params(tmp_path / "P.txt")
