#!/usr/bin/env bash
# One command for each job; every stage is also a script of its own (see README.md).
set -euo pipefail
cd "$(dirname "$0")"

all_stages=diffusion,classifier,sample,train,evaluate

usage() {
    cat <<'TEXT'
./run.sh demo [seed]                  all five stages on a synthetic dataset, on a CPU (about 5 minutes)
./run.sh demo solar                   a detector of real solar cells, with references and verdicts
./run.sh test                         linters, types and tests
./run.sh setup                        only create the environment .venv
./run.sh <stage> <dataset> [class …]  one stage on a dataset: diffusion, classifier, sample, train, evaluate
./run.sh all <dataset> [class …]      all stages in order (or some of them: sample,train,evaluate)
./run.sh table <dataset> [class …]    the table of classes that are evaluated
./run.sh slurm <dataset> [class …]    the same, as jobs on a SLURM cluster (see experiments/sweep.slurm)

Sweeps resume where they stopped, continue past a class that fails, use every GPU (or those in CUDA_VISIBLE_DEVICES),
and end with the table. If anything failed, they list it and exit with code 1. Ctrl-C and SIGTERM save, then end the
sweep.
TEXT
}

is_active() { # whether an environment of the user's is; conda's base is active in every shell, and for no project
    [[ -n ${VIRTUAL_ENV:-} || (-n ${CONDA_PREFIX:-} && ${CONDA_DEFAULT_ENV:-} != base) ]] && command -v python >/dev/null
}

setup() { # makes the environment from $1, again if that file changes; uses an active environment as it is
    local wanted marker=.venv/$1.sha256 whole=.venv/requirements-test.txt.sha256 # which holds requirements.txt too
    if is_active; then
        python=python
        return
    fi
    python=.venv/bin/python
    exec 9>.setup.lock # one at a time; the lock ends with this process
    "${PYTHON:-python3}" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' 2>/dev/null || true # Windows has none
    wanted=$(cat requirements*.txt | sha256sum)
    if ! grep -qsxF "$wanted" "$marker" "$whole"; then
        "${PYTHON:-python3}" -c 'import sys; sys.exit("Python 3.11 or newer is needed, got " + sys.version.split()[0] + "; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
        "${PYTHON:-python3}" -m venv .venv
        "$python" -m pip install --quiet --upgrade pip
        "$python" -m pip install --quiet -r "$1"
        echo "$wanted" >"$marker"
    fi
    exec 9>&-
}

# An interrupted script saves and exits with code 0; without these three functions the next stage would start.
heed_signals() {
    trap 'stop INT 130' INT
    trap 'stop TERM 143' TERM
}

stop() { # the terminal has already sent Ctrl-C to the scripts; a second Ctrl-C does not wait for them
    if [[ $1 == TERM ]]; then
        for job in $(jobs -p); do kill -TERM "$job" 2>/dev/null || true; done
    fi
    wait
    exit "$2"
}

run() { # runs a command that receives Ctrl-C, although bash makes background jobs ignore it
    (trap - INT TERM && exec "$@") &
    wait $!
}

classes_of() { # checks the dataset and the given classes; prints them (or all), one per line
    "$python" -c 'import sys
from realnet.commands import cli
from realnet.data.registry import open_dataset

def main(_):
    name, *wanted = sys.argv[1:]
    print(*cli.choose_detectors(wanted or ["all"], open_dataset(name).classes, name), sep="\n")

cli.run(main)' "$@"
}

find_gpus() { # sets count (GPUs that a process sees) and gpus (ids: numbers or UUIDs; one empty id for a CPU)
    count=$("$python" -c 'import torch; print(torch.cuda.device_count())')
    IFS=', ' read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((count - 1)))}"
    if ((count == 0)) || [[ ${gpus[0]} != MIG-* ]]; then # a process sees only the first of several MIG devices
        gpus=("${gpus[@]:0:count}")
    fi
    gpus=("${gpus[@]:-}")
}

shared() { # runs a script on all GPUs at once; torchrun would kill it 30 s after a signal; saving may take longer
    if ((count > 1)); then
        export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}
        run "$python" -m torch.distributed.run --standalone --nproc_per_node="$count" "$@"
    else
        run "$python" "$@"
    fi
}

each_class() { # runs a stage's command with a class's name at its end, for one class at a time on each GPU
    local stage=$1 gpu class
    shift
    claims=$(mktemp -d)
    trap 'rm -rf "$claims"' EXIT
    for gpu in "${gpus[@]}"; do
        (
            heed_signals
            if [[ -n $gpu ]]; then export CUDA_VISIBLE_DEVICES=$gpu; fi
            for class in "${classes[@]}"; do
                mkdir "$claims/$class" 2>/dev/null || continue # another GPU has it
                if run "$@" "$class"; then touch "$claims/$class/done"; fi
            done
        ) &
    done
    wait
    for class in "${classes[@]}"; do
        [[ -e $claims/$class/done ]] || give_up "$stage" "$class"
    done
    rm -rf "$claims"
}

give_up() { # leaves a class that failed out of the later stages
    local class kept=()
    for class in "${classes[@]}"; do
        [[ $class == "$2" ]] || kept+=("$class")
    done
    classes=("${kept[@]}")
    failed+=("$1 $2")
}

stage() {
    local class
    case $1 in
    diffusion) shared train_diffusion.py --dataset "$dataset" || failed+=(diffusion) ;;
    classifier)
        if [[ $(classes_of "$dataset") != *$'\n'* ]]; then
            echo "not needed: $dataset has one class"
        else
            shared train_classifier.py --dataset "$dataset" || failed+=(classifier)
        fi
        ;;
    sample)
        if ((${#failed[@]})); then # half-trained networks would make images that look finished
            failed+=("sample (not started)")
            return
        fi
        for class in "${classes[@]}"; do
            shared sample.py --dataset "$dataset" --classes "$class" || give_up sample "$class"
        done
        ;;
    train) each_class train "$python" train_realnet.py --dataset "$dataset" --class_name ;;
    evaluate)
        each_class evaluate "$python" evaluation_realnet.py --dataset "$dataset" --class_name >/dev/null
        if ((${#classes[@]})); then stage table; fi
        ;;
    table) # of results that exist, for which one process is enough
        run "$python" evaluation_realnet.py --dataset "$dataset" --class_name "${classes[@]}" || failed+=("$1")
        ;;
    esac
}

sweep() { # stages, dataset, classes
    local names name
    dataset=$2 failed=()
    names=$(classes_of "${@:2}")
    mapfile -t classes <<<"$names"
    find_gpus
    for name in ${1//,/ }; do
        ((${#classes[@]})) || break
        echo "── $name: $dataset ${classes[*]}"
        stage "$name"
    done
    if ((${#failed[@]})); then
        printf '\nFAILED\n'
        printf '  %s\n' "${failed[@]}"
        exit 1
    fi >&2
}

demo() {
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
    local stages=(train_diffusion train_classifier sample train_realnet evaluation_realnet) flags=(--dataset toy --device cpu)
    if [[ -n ${1:-} ]]; then flags+=(--seed "$1" --no-resume); fi
    run "$python" prepare_data.py toy
    for script in "${stages[@]}"; do
        echo "── python $script.py --dataset toy"
        if [[ $script == evaluation_realnet ]]; then flags=(--dataset toy --device cpu); fi
        SECONDS=0 # bash counts them
        run "$python" "$script.py" "${flags[@]}"
        echo "took       $SECONDS s"
    done
    echo "samples    data/toy/sdas"
    echo "logs       experiments/toy/*_log   (tensorboard --logdir experiments/toy)"
}

demo_solar() { # real photographs: 91 MB of solar cells, from the Python index
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
    local flags=(--dataset solar --class_name mono --device cpu)
    "$python" -c 'import importlib.util as util, sys; sys.exit(not util.find_spec("elpv_dataset"))' ||
        "$python" -m pip install --quiet elpv-dataset
    run "$python" prepare_data.py solar
    echo "── python train_realnet.py ${flags[*]}"
    run "$python" train_realnet.py "${flags[@]}"
    echo "── python evaluation_realnet.py ${flags[*]} --references padim nearest"
    run "$python" evaluation_realnet.py "${flags[@]}" --references padim nearest
    echo "── python predict_realnet.py ${flags[*]} --input data/solar/images/mono/test"
    run "$python" predict_realnet.py "${flags[@]}" --input data/solar/images/mono/test
}

case ${1:-} in
demo)
    setup requirements.txt
    heed_signals
    if [[ ${2:-} == solar ]]; then demo_solar; else demo "${2:-}"; fi
    ;;
test)
    setup requirements-test.txt
    "$python" -m ruff format --check .
    "$python" -m ruff check .
    "$python" -m mypy
    "$python" -m pytest -n auto --maxprocesses 8 --dist worksteal "${@:2}"
    ;;
setup) setup requirements.txt ;;
diffusion* | classifier* | sample* | train* | evaluate* | table | all)
    [[ $# -ge 2 && ,${1/#all/$all_stages}, =~ ^(,(${all_stages//,/|}|table))+,$ ]] || { usage >&2; exit 2; }
    setup requirements.txt
    heed_signals
    sweep "${1/#all/$all_stages}" "${@:2}"
    ;;
slurm)
    [[ $# -ge 2 ]] || { usage >&2; exit 2; }
    setup requirements.txt
    names=$(classes_of "${@:2}")
    mapfile -t classes <<<"$names"
    exec bash experiments/sweep.slurm submit "$2" "experiments/$2/sweep_log/$(date +%Y%m%d-%H%M%S)-$$" "${classes[@]}"
    ;;
*)
    usage
    [[ -z ${1:-} || $1 == -h || $1 == --help ]] || exit 2
    ;;
esac
