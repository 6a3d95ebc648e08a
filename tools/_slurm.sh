# What slurm_train.sh and slurm_test.sh share: one task for each GPU, as srun starts them.
#   GPUS           in all; default 8
#   GPUS_PER_NODE  default 8, or GPUS if that is fewer
#   CPUS_PER_TASK  default 4: the process and its loaders
#   SRUN_ARGS      more options of srun, such as "--time=12:00:00 --account=me"
#   PYTHON         default python
set -euo pipefail

on_gpus() {  # PARTITION JOB TOOL ARGUMENTS…
    local partition=$1 job=$2 tool=$3
    shift 3
    local all=${GPUS:-8}
    local each=${GPUS_PER_NODE:-$((all < 8 ? all : 8))}
    local root
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    if ((all % each)); then
        echo "error: GPUS=$all is not a multiple of GPUS_PER_NODE=$each" >&2
        exit 2
    fi
    # one file system for all: caches, checkpoints and counts are shared by it
    # shellcheck disable=SC2086
    PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec srun \
        --partition="$partition" --job-name="$job" \
        --ntasks="$all" --ntasks-per-node="$each" --gres="gpu:$each" \
        --cpus-per-task="${CPUS_PER_TASK:-4}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        "${PYTHON:-python}" -u "$root/tools/$tool.py" "$@" --launcher slurm
}
