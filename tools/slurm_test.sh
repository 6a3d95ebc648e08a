#!/usr/bin/env bash
# Score on SLURM, one task for each GPU:
#
#   GPUS=8 tools/slurm_test.sh PARTITION JOB CONFIG CHECKPOINT [--resume] [--protocol …]
#
# The variables are explained in tools/_slurm.sh.
source "$(dirname "${BASH_SOURCE[0]}")/_slurm.sh"
if (($# < 4)); then
    echo "error: $0 takes PARTITION JOB CONFIG CHECKPOINT [options]" >&2
    exit 2
fi
partition=$1 job=$2
shift 2
on_gpus "$partition" "$job" test "$@"
