#!/bin/sh
# Train the network that eyescream_py/srez ships for `--run upscale`, and pack it.
#
# usage: scripts/train_srez_model.sh LFW WORK
#
# LFW is a folder with a folder of 250x250 pictures per person (100 pictures of people of their own
# are held out), WORK a new folder. About five minutes of one core.
set -eu
lfw=$1
work=$2
python=${PYTHON:-python}
places="--checkpoint_dir $work/checkpoint --summary_dir $work/summary"
"$python" -m eyescream_py.srez --run train $places --train_dir "$work/train" \
    --cache_dir "$work/cache" --dataset "$lfw" --crop lfw --test_vectors 100 --gen_norm 0 \
    --batch_size 4 --threads 1 --gpu -1 --width 0.25 --critic_width 0.0625 \
    --gene_l1_factor 1 --pixel_factor 1 --train_noise 0.01 --learning_rate_start 2e-3 \
    --learning_rate_half_life 900 --learning_beta1 0.9 --learning_beta2 0.99 \
    --max_batches 5000 --train_time 60 --summary_period 1000
"$python" -m eyescream_py.srez --run evaluate $places --dataset "$lfw" --gpu -1
"$python" -m scripts.pack_srez_model "$work/checkpoint/checkpoint.safetensors" \
    eyescream_py/srez/model/lfw_grey.safetensors
