#!/usr/bin/env bash
# One command for each job; every stage is a script that can be run by itself (see README.md).
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'TEXT'
./run.sh demo [seed]                  all five stages on a synthetic dataset, on a CPU (about 5 minutes)
./run.sh test                         linters, types and tests
./run.sh setup                        only make the environment .venv
./run.sh <stage> <dataset> [class …]  one stage on a dataset: diffusion, classifier, sample, train, evaluate
./run.sh all <dataset> [class …]      all stages, one after the other

Sweeps go on where they stopped, keep going past a class that fails, use every GPU, and end with the table.
TEXT
}

setup() { # environment from $1, made once and again when the file changes; an active one is used as it is
    local wanted marker=.venv/requirements.sha256
    if [[ -n ${VIRTUAL_ENV:-} || -n ${CONDA_PREFIX:-} ]]; then
        python=python
        return
    fi
    python=.venv/bin/python
    wanted=$(cat requirements.txt "$1" | sha256sum)
    if [[ ! -f $marker || $(cat "$marker") != "$wanted" ]]; then
        "${PYTHON:-python3}" -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
        "${PYTHON:-python3}" -m venv .venv
        "$python" -m pip install --quiet --upgrade pip
        "$python" -m pip install --quiet -r "$1"
        echo "$wanted" >"$marker"
    fi
}

gpus() { "$python" -c 'import torch; print(torch.cuda.device_count())'; }

joint() { # a script over all GPUs at once
    if (($(gpus) > 1)); then
        "$python" -m torch.distributed.run --standalone --nproc_per_node="$(gpus)" "$@"
    else
        "$python" "$@"
    fi
}

each_class() { # a script for one class at a time, each on a GPU of its own
    local script=$1 dataset=$2 count
    shift 2
    count=$(gpus)
    if ((count > 1)); then export -n CUDA_VISIBLE_DEVICES; fi
    printf '%s\0' "$@" | xargs -0 -P "$((count > 1 ? count : 1))" -I {} --process-slot-var=SLOT bash -c '
        if (( $1 > 1 )); then export CUDA_VISIBLE_DEVICES=$SLOT; fi
        "$2" "$3" --dataset "$4" --class_name "$5" || { echo "FAILED: $3 --class_name $5" >&2; exit 1; }
    ' _ "$count" "$python" "$script" "$dataset" {}
}

stage() {
    local name=$1 dataset=$2 classes
    shift 2
    if (($# == 0)); then
        mapfile -t classes < <("$python" -c 'import sys; from realnet.data.registry import open_dataset
print(*open_dataset(sys.argv[1]).classes, sep="\n")' "$dataset")
    else
        classes=("$@")
    fi
    case $name in
    diffusion) joint train_diffusion.py --dataset "$dataset" ;;
    classifier) ((${#classes[@]} < 2)) || joint train_classifier.py --dataset "$dataset" ;;
    sample) joint sample.py --dataset "$dataset" --classes "${classes[@]}" ;;
    train) each_class train_realnet.py "$dataset" "${classes[@]}" ;;
    evaluate) "$python" evaluation_realnet.py --dataset "$dataset" --class_name "${classes[@]}" ;;
    esac
}

demo() {
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
    local stages=(train_diffusion train_classifier sample train_realnet evaluation_realnet) flags=(--dataset toy --device cpu)
    if [[ -n ${1:-} ]]; then flags+=(--seed "$1" --no-resume); fi
    "$python" prepare_data.py toy
    for script in "${stages[@]}"; do
        echo "── python $script.py --dataset toy"
        if [[ $script == evaluation_realnet ]]; then flags=(--dataset toy --device cpu); fi
        "$python" "$script.py" "${flags[@]}"
    done
    echo "samples    data/toy/sdas"
    echo "logs       experiments/toy/*_log   (tensorboard --logdir experiments/toy)"
}

case ${1:-} in
demo)
    setup requirements.txt
    demo "${2:-}"
    ;;
test)
    setup requirements-test.txt
    "$python" -m ruff format --check .
    "$python" -m ruff check .
    "$python" -m mypy
    "$python" -m pytest "${@:2}"
    ;;
setup) setup requirements.txt ;;
diffusion | classifier | sample | train | evaluate)
    [[ $# -ge 2 ]] || { usage >&2; exit 2; }
    setup requirements.txt
    stage "$@"
    ;;
all)
    [[ $# -ge 2 ]] || { usage >&2; exit 2; }
    setup requirements.txt
    failed=0
    for name in diffusion classifier sample train evaluate; do
        echo "── $name ${*:2}"
        stage "$name" "${@:2}" || failed=1
    done
    exit $failed
    ;;
*)
    usage
    [[ -z ${1:-} || $1 == -h || $1 == --help ]] || exit 2
    ;;
esac
