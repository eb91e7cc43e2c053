#!/bin/sh
# Train srez in folders of its own per run, as the fork's run_script.sh did.
#
# usage: scripts/run_srez.sh RUN [FLAG]...
#
# RUN names the run: pictures go to srez/train/RUN, checkpoints to srez/checkpoint/RUN, metrics to srez/summary/RUN.
# The fork's study settings (faces from noise by the adversarial loss alone, 400 minutes, a picture every 200
# batches) are the defaults;
# any FLAG of `python -m eyescream_py.srez` after RUN overrides them, for example
#   scripts/run_srez.sh gp1 --loss_func wgangp --n_critic 5
#   scripts/run_srez.sh gp1 --loss_func wgangp --n_critic 5 --resume
#   scripts/run_srez.sh night --on_finish 'sudo shutdown -h now'
# PYTHON chooses the interpreter, SREZ_ROOT another folder than srez.
set -eu

if [ $# -lt 1 ]; then
    echo "usage: $0 RUN [FLAG]..." >&2
    exit 2
fi
case "$1" in
    -* | */* | . | ..)
        echo "$0: the run's name comes first and is a plain word, not '$1'" >&2
        exit 2
        ;;
esac
run=$1
shift
root=${SREZ_ROOT:-srez}

exec "${PYTHON:-python}" -m eyescream_py.srez --run train \
    --dataset "$root/dataset" \
    --cache_dir "$root/cache" \
    --train_dir "$root/train/$run" \
    --checkpoint_dir "$root/checkpoint/$run" \
    --summary_dir "$root/summary/$run" \
    --summary_period 200 \
    --input noise \
    --gene_l1_factor 0 \
    --train_noise 0.03 \
    --train_time 400 \
    "$@"
