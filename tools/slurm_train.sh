#!/usr/bin/env bash
# Train on SLURM, one task for each GPU:
#
#   GPUS=8 tools/slurm_train.sh PARTITION JOB CONFIG [WORK_DIR] [--resume] [--cfg-options …]
#
# TOOL names the training: train_mfd (default), train_distill, train_teacher, train_vae, …
# The other variables are explained in tools/_slurm.sh.
source "$(dirname "${BASH_SOURCE[0]}")/_slurm.sh"
if (($# < 3)); then
    echo "error: $0 takes PARTITION JOB CONFIG [WORK_DIR] [options]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3
shift 3
place=()
if (($#)) && [[ $1 != -* ]]; then
    place=(--work-dir "$1")
    shift
fi
on_gpus "$partition" "$job" "${TOOL:-train_mfd}" "$config" "${place[@]}" "$@"
