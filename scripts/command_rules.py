"""How the documents' commands are kept short, and which of them cannot run here.

`scripts.run_commands` runs each command as it is shown, in a copy of the project that holds the
files which the documents name. Here stand the exceptions, each with its reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """For commands that match `pattern`: flags to append, or why they are not run."""

    pattern: str
    more: str = ""
    skip: str = ""


# Appended flags win over those that the page shows. The first rule that matches decides.
_SREZ_SMALL = (
    "--width 0.0625 --batch_size 2 --sample_size 32 --train_images 12 --test_vectors 4"
    " --max_batches 6 --summary_period 2 --gpu -1 --threads 1"
)
_GANLESS_SMALL = (
    "--loadSize 72 --imgSize 64 --batchSize 2 --itersPerEpoch 4 --heldout 2 --epochs 1"
    " --width 0.0625 --features random --features-width 0.125 --nthread 1 --threads 1 --gpu -1"
    " --noplot"
)
_CPU = " --noplot --gpu=-1 --threads=1"
_GAME = " --epochs=1" + _CPU
_PRETRAINED = "--N_epoch=64 --threads=1"
_C2F = "--N_epoch=32 --validation=4 --parzenImages=4"
RULES = (
    Rule(r"make (bench|audit|gpu-check)", skip="minutes of timings, the network, or a GPU"),
    Rule(r"\.ci/run", skip="installs everything anew from the network, then runs all tests"),
    Rule(r"pip install", skip="installs from the network"),
    Rule(r"bart ", skip="a program of others; what it wrote is in tests/mln/golden"),
    Rule(r".*srez\.download_data", skip="the network; tests/srez/test_download_data.py serves it"),
    Rule(r"python -m benchmarks\.(train_step|first_iteration)", skip="minutes of timings"),
    Rule(r"python -m benchmarks\.mln_masks run", skip="needs the published masks and images"),
    Rule(r"python -m benchmarks\.mln_masks table", skip="needs the rows of the command before"),
    Rule(r"python -m benchmarks\.image_model", skip="trains for an hour"),
    Rule(r".*\.onnx ", skip="needs pip install onnx; the tests of torch7 write such files"),
    Rule(r"make demo", more="-o .venv/.installed EPOCHS=1"),
    Rule(r"make test", more="-o .venv/.installed PYTEST_ARGS=tests/data/test_walk.py"),
    Rule(r"make lint", more="-o .venv/.installed"),
    Rule(
        r".*train_pretrained .* -- ",
        more=_PRETRAINED + " --dataset=FOLDER --epochs=1 --gpu=-1 --G_planes=32 --D_planes=32",
    ),
    Rule(r".*train_pretrained ", more="--dataset FOLDER --epochs 1 --gpu -1 -- " + _PRETRAINED),
    Rule(r"python train\.py .*--rng=lua"),  # a replay of forty pictures: short as it is
    Rule(r"python train\.py .*--network=old.net", more="--N_epoch=16 --epochs=2" + _CPU),
    Rule(r"python train\.py", more="--N_epoch=64" + _GAME),
    Rule(r"python train_c2f\.py", more=_C2F + _GAME),
    Rule(r"python train_autoencoder\.py", more="--dataset=FOLDER --epochs=1 --threads=1"),
    Rule(r"python train_denoiser\.py", more="--dataset=FOLDER" + _GAME),
    Rule(r".*--explore", skip="a page until Ctrl-C; tests/e2e/test_explore.py moves its sliders"),
    Rule(r"python sample\.py", more="--runs=1 --gpu=-1"),
    Rule(r"python -m benchmarks\.dataset", more="--photos 3 --rounds 1 --memory 3"),
    Rule(r".*srez\.make_data", more="--count 24"),
    Rule(r".*srez --run train", more=_SREZ_SMALL),
    Rule(r".*run_srez\.sh", more=_SREZ_SMALL),
    Rule(r".*srez\.bench", more=_SREZ_SMALL + " --out_dir srez/bench_of_this_block"),
    Rule(r".*srez --run evaluate", more="--threads 1 --features none"),
    Rule(r".*ganless_hd make-data", more="--count 4 --size 96"),
    Rule(r".*ganless_hd train --resume", more=_GANLESS_SMALL.replace("--epochs 1", "--epochs 2")),
    Rule(r".*ganless_hd train", more=_GANLESS_SMALL),
    Rule(r".*image_model make-data", more="--unpaired 8 --pairs 8 --tests 4"),
    Rule(
        r".*image_model train .*--decay_steps",
        more="--max_steps 4 --decay_steps 2 --batch_size 2 --gpu -1 --noplot",
    ),
    Rule(r".*image_model train", more="--max_steps 4 --batch_size 2 --gpu -1 --noplot"),
    Rule(r".*mln train", more="--batches 2 --InitExamples 8 --test-images 2 --threads 1 --gpu -1"),
    Rule(r".*mln reconstruct", more="--threads 1"),
)

# What stands in a page for a name that only the run itself decides: (shown, glob).
STAND_INS = (
    (r"logs/TIME/model\.ckpt-\d+", "logs/[0-9]*/model.ckpt-*"),
    (r"runs/NAME_checkpoint", "runs/*_checkpoint"),
    (r"runs/NAME_train", "runs/*_train"),
    (r"logs/ganless_hd/saves/autoEncoder--[\d.]*\d", "logs/ganless_hd/saves/autoEncoder-*"),
)

_RUN = ("cp eyescream_py/pretrained/faces16.net logs/adversarial.net",)
# What a reader of the page has already: made by these commands before the first block.
BEFORE = {
    "README.md": (
        "python train.py --scale=16 --grayscale --N_epoch=16 --save=then" + _GAME,
        "mv then/adversarial.net old.net",
    ),
    "docs/library.md": (
        *_RUN,
        "python train_c2f.py --coarseSize=16 --fineSize=32 --grayscale " + _C2F + _GAME,
    ),
    "docs/evaluate.md": (  # the page holds out the last hundred of a thousand photos
        *_RUN,
        "python dataset/generate_dataset.py --path=LFW",
        "cd dataset/out_aug_64x64 && for name in 00002*; do mv $name 0009${name#0000}; done",
    ),
    "docs/mln.md": (
        "python -m eyescream_py.mln simulate --out SCAN --side 32 --samples 600 --coils 4",
        "python -m eyescream_py.mln export --params SCAN/Params.txt --scan SCAN/Scan_01.mat"
        " --format ismrmrd --out scan",
        "cp SCAN/Params.txt P.txt && cp SCAN/Scan_01.mat scan.mat",
    ),
}


def why_not(command: str) -> str:
    """The reason for which a command is not run; empty where it is."""
    rule = _rule(command)
    return rule.skip if rule else ""


def shortened(command: str) -> str:
    """The command as it is run: without its comment and dots, the rule's flags appended."""
    bare = re.sub(r"\s+#.*$", "", command).replace(" ...", "")
    bare = re.sub(r" \[[^\]]*\]", "", bare)
    rule = _rule(bare)
    return f"{bare} {rule.more}" if rule and rule.more else bare


def _rule(command: str) -> Rule | None:
    return next((rule for rule in RULES if re.match(rule.pattern, command)), None)
