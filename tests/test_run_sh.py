"""run.sh and the SLURM job, where python, sbatch and scontrol only note what they are asked to do."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT

# notes in ./calls what runs with which classes on which GPU; FAIL lists what fails, TOGETHER how many wait for each
# other, and what SLOW names runs until it is told to stop (a shell that waits hears
# each signal; one that runs short commands may not)
PYTHON = r"""#!/usr/bin/env bash
case "$*" in
*device_count*) echo "${GPUS:-0}" && exit ;;
*open_dataset*)
    if [[ $4 == bolts ]]; then echo "error: no class bolts" >&2; exit 2; fi
    shift 3
    if (($#)); then printf '%s\n' "$@"; else printf '%s\n' $CLASSES; fi
    exit ;;
esac
if [[ $1 == -m ]]; then how="$2 $4 "; shift 4; fi
job="$1 ${*: 5}" job=${job% }
trap 'sleep 0.2; echo "saved $job" >>calls; exit 0' TERM INT
echo "begin ${CUDA_VISIBLE_DEVICES:--} ${how-}$job" >>calls
if [[ -n ${how-} ]]; then echo "grace $TORCH_ELASTIC_SHUTDOWN_TIMEOUT" >>calls; fi
if [[ $job == "${SLOW-}" ]]; then sleep 60 >&- 2>&- & wait; fi
until (($(grep -c begin calls) >= ${TOGETHER:-1})); do sleep 0.02; done
echo "end ${CUDA_VISIBLE_DEVICES:--}" >>calls
[[ ",$FAIL," != *",$job,"* ]]
"""
SLURM = r"""#!/usr/bin/env bash
echo "${0##*/} $*" >>calls
[[ " $* " != *" ${REFUSED:-nothing} "* ]] || exit 1
grep -c sbatch calls
"""
CLASSES = ["linen", "weave", "widget"]


@pytest.fixture
def start(tmp_path, monkeypatch) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a script in a folder that has run.sh, with settings of the stand-ins."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "experiments/tiny").mkdir(parents=True)
    for name in ("run.sh", "experiments/sweep.slurm"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name, text in {"python": PYTHON, "sbatch": SLURM, "scontrol": SLURM, "scancel": SLURM}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    base = {"PATH": path, "VIRTUAL_ENV": str(tmp_path), "CLASSES": " ".join(CLASSES), "FAIL": ""}
    started: list[subprocess.Popen] = []

    def start(*arguments: str, **settings: str) -> subprocess.Popen:
        process = subprocess.Popen(
            ["bash", *arguments],
            env=base | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - bash cannot undo a nohup
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def run(start) -> Callable[..., tuple[int, str]]:
    """Run ``run.sh``; return its exit code, and what it printed."""

    def run(*arguments: str, **settings: str) -> tuple[int, str]:
        process = start("run.sh", *arguments, **settings)
        printed, _ = process.communicate(timeout=20)
        return process.returncode, printed

    return run


def calls(kind: str = "begin") -> list[str]:
    """Return what was noted; of what began, script and classes alone."""
    lines = Path("calls").read_text().splitlines() if Path("calls").exists() else []
    found = [line.removeprefix(kind).strip() for line in lines if line.startswith(kind)]
    return [line.split(maxsplit=1)[1] for line in found] if kind == "begin" else found


def wait_for(line: str) -> None:
    for _ in range(1000):
        if line in calls():
            return
        time.sleep(0.02)
    pytest.fail(f"{line} did not start")


def each(script: str, names: list[str] = CLASSES) -> list[str]:
    return [f"{script} {name}" for name in names]


def test_all_stages_in_order_class_by_class_and_the_table_last(run):
    code, printed = run("all", "tiny")
    assert (code, "FAILED" in printed) == (0, False), printed
    assert calls() == [
        "train_diffusion.py",
        "train_classifier.py",
        *each("sample.py"),
        *each("train_realnet.py"),
        *each("evaluation_realnet.py"),
        "evaluation_realnet.py linen weave widget",
    ]


def test_classes_named_alone_are_worked_on_but_the_dataset_decides_on_the_classifier(run):
    assert run("all", "tiny", "weave")[0] == 0
    assert calls()[1:3] == ["train_classifier.py", "sample.py weave"] and "linen" not in " ".join(calls())
    Path("calls").unlink()
    assert "not needed" in run("classifier", "tiny", CLASSES="tile")[1] and calls() == []
    assert run("train,evaluate", "tiny", "weave", "linen")[0] == 0
    assert calls()[:2] == each("train_realnet.py", ["weave", "linen"])


def test_a_class_that_fails_is_left_out_from_then_on_and_named(run):
    code, printed = run("all", "tiny", FAIL="sample.py linen,train_realnet.py widget")
    assert code == 1 and printed.endswith("FAILED\n  sample linen\n  train widget\n")
    assert calls()[5:] == [
        *each("train_realnet.py", ["weave", "widget"]),
        *each("evaluation_realnet.py", ["weave"]),
        "evaluation_realnet.py weave",
    ]


def test_a_sweep_ends_where_no_class_is_left(run):
    code, printed = run("sample,train,evaluate", "tiny", "weave", FAIL="sample.py weave")
    assert code == 1 and "train:" not in printed and calls() == ["sample.py weave"]


def test_a_class_that_is_not_evaluated_does_not_cost_the_others_their_table(run):
    code, printed = run("evaluate", "tiny", FAIL="evaluation_realnet.py linen")
    assert code == 1 and printed.endswith("FAILED\n  evaluate linen\n")
    assert calls()[-1] == "evaluation_realnet.py weave widget"


@pytest.mark.parametrize("script", ["train_diffusion", "train_classifier"])
def test_nothing_is_sampled_from_networks_that_are_not_finished(run, script):
    code, printed = run("all", "tiny", FAIL=f"{script}.py")
    assert code == 1 and "sample (not started)" in printed and not any("sample" in call for call in calls())
    assert set(each("train_realnet.py")) < set(calls())  # other anomalies than SDAS need no networks


@pytest.mark.parametrize(
    ("visible", "gpus", "expected"),
    [
        (None, 2, {"0", "1"}),
        ("2,3", 2, {"2", "3"}),
        ("GPU-5a, GPU-7c", 2, {"GPU-5a", "GPU-7c"}),
        ("MIG-1,MIG-2", 1, {"MIG-1", "MIG-2"}),
        ("4,9,5", 1, {"4"}),  # CUDA stops at the first that is not there
        ("", 0, {"-"}),
        (None, 0, {"-"}),
    ],
)
def test_one_class_at_a_time_on_each_gpu(run, visible, gpus, expected):
    settings = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert run("train", "tiny", GPUS=str(gpus), TOGETHER=str(len(expected)), **settings)[0] == 0
    busy, most = set[str](), 0
    for line in Path("calls").read_text().splitlines():
        kind, gpu = line.split()[:2]
        assert (kind == "end") == (gpu in busy)
        busy ^= {gpu}
        most = max(most, len(busy))
    assert most == len(expected) and {line.split()[0] for line in calls("begin ")} == expected
    assert sorted(calls()) == each("train_realnet.py")


def test_shared_stages_and_sampling_take_all_gpus_at_once(run):
    assert run("diffusion,sample", "tiny", "weave", GPUS="4")[0] == 0
    launcher = "torch.distributed.run --nproc_per_node=4"
    assert calls() == [f"{launcher} train_diffusion.py", f"{launcher} sample.py weave"]
    assert calls("grace") == ["240", "240"]  # less than SLURM's 300 seconds


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("slow", ["train_diffusion.py", "train_realnet.py weave"])
def test_an_interrupt_waits_for_what_is_saved_and_ends_the_sweep(start, number, code, slow):
    process = start("run.sh", "all", "tiny", SLOW=slow)
    wait_for(slow)
    send = os.killpg if number == signal.SIGINT else os.kill  # Ctrl-C goes to all, as a terminal sends it
    send(process.pid, number)
    assert process.wait(timeout=20) == code
    assert calls("saved") == [slow] and calls()[-1] == slow


@pytest.mark.parametrize(("fail", "scripts"), [("", 6), ("train_classifier.py cpu", 3)])
def test_the_demo_runs_all_stages_and_ends_with_the_first_that_fails(run, fail, scripts):
    code, printed = run("demo", FAIL=fail)
    assert (code == 0) == ("tensorboard" in printed) == (fail == "")
    names = ["prepare_data", "train_diffusion", "train_classifier", "sample", "train_realnet", "evaluation_realnet"]
    assert [call.split(".")[0] for call in calls()] == names[:scripts]
    assert len(re.findall(r"^took +\d+ s$", printed, re.MULTILINE)) == (5 if not fail else 1)


@pytest.mark.parametrize("arguments", [["bogus", "tiny"], ["trains", "tiny"], ["train,bogus", "tiny"], ["train"]])
def test_what_is_no_stage_or_lacks_a_dataset_shows_the_usage(run, arguments):
    code, printed = run(*arguments)
    assert code == 2 and printed.startswith("./run.sh demo") and calls() == []


@pytest.mark.parametrize("stage", ["all", "slurm"])
def test_an_unknown_class_ends_the_sweep_before_it_starts(run, stage):
    assert run(stage, "tiny", "bolts") == (2, "error: no class bolts\n")
    assert not Path("calls").exists()


def test_a_cluster_gets_three_jobs_in_a_chain(run):
    code, printed = run("slurm", "tiny", SHARED_OPTIONS="--gpus=4 --time=2-0")
    log = sweep_log()
    assert code == 0 and f"table      {log}/table-3.log" in printed
    shared, classes, table = calls("sbatch")
    assert "--gpus=4 --time=2-0" in shared and "--dependency" not in shared
    assert "--array=0-2" in classes and "--dependency=afterany:1" in classes
    assert "--dependency=afterany:2" in table
    assert table.endswith(f"experiments/sweep.slurm table tiny {log} linen weave widget")


def test_fewer_tasks_than_classes_share_them(run, start):
    assert run("slurm", "tiny", TASKS="2", AT_ONCE="1")[0] == 0
    assert "--array=0-1%1 " in calls("sbatch")[1]
    assert job(start, "classes", "0", FAIL="train_realnet.py linen")[0] == 1
    trained = each("train_realnet.py")
    assert [call for call in calls() if call in trained] == [
        trained[0],
        trained[2],
    ]  # it goes on past a class that fails
    assert job(start, "classes", "0")[0] == 0
    assert [call for call in calls() if call in trained] == [trained[0], trained[2], trained[0]]  # widget is done
    assert job(start, "classes", "1")[0] == 0
    code, printed = job(start, "table")
    assert code == 0 and "FAILED" not in printed
    code, printed = run("slurm", "tiny", TASKS="none")
    assert code == 2 and "TASKS=none: give how many tasks share the 3 classes" in printed


def test_a_job_that_is_refused_takes_back_those_before_it(run):
    assert run("slurm", "tiny", REFUSED="table")[0] == 1
    assert calls("scancel") == ["1 2"]


def sweep_log() -> Path:
    """The folder of the last sweep."""
    return max(Path("experiments/tiny/sweep_log").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def job(start: Callable, name: str, task: str = "", **settings: str) -> tuple[int, str]:
    settings |= {"SLURM_ARRAY_TASK_ID": task} if task else {}
    process = start("experiments/sweep.slurm", name, "tiny", str(sweep_log()), *CLASSES, **settings)
    printed, _ = process.communicate(timeout=20)
    return process.returncode, printed


def test_the_jobs_do_what_the_sweep_does(run, start):
    run("slurm", "tiny")
    assert job(start, "shared")[0] == 0
    assert [job(start, "classes", str(n), FAIL="train_realnet.py weave")[0] for n in range(3)] == [0, 1, 0]
    assert each("sample.py")[1] in calls() and "evaluation_realnet.py weave" not in calls()
    Path("calls").unlink()
    code, printed = job(start, "table")
    assert code == 1 and "FAILED: weave" in printed
    assert calls()[-1] == "evaluation_realnet.py linen widget" and "evaluation_realnet.py linen" not in calls()
    assert job(start, "classes", "1")[0] == 0
    code, printed = job(start, "table")
    assert code == 0 and "FAILED" not in printed


def test_jobs_do_not_sample_after_a_shared_job_that_failed(run, start):
    run("slurm", "tiny")
    assert job(start, "shared")[0] == 0
    before = sweep_log()
    Path("calls").unlink()
    run("slurm", "tiny")
    assert sweep_log() != before and (before / "shared.done").exists()
    assert job(start, "shared", FAIL="train_diffusion.py")[0] == 1
    assert job(start, "classes", "0")[0] == 0
    assert not any("sample" in call for call in calls()) and "train_realnet.py linen" in calls()


@pytest.mark.parametrize(("seconds", "is_queued"), [(60, True), (0, False)])
def test_a_job_near_its_time_limit_saves_and_queues_again_unless_it_has_just_begun(run, start, seconds, is_queued):
    run("slurm", "tiny")
    arguments = ("experiments/sweep.slurm", "shared", "tiny", str(sweep_log()))
    process = start(*arguments, SLOW="train_diffusion.py", SLURM_JOB_ID="7", SECONDS=str(seconds))
    wait_for("train_diffusion.py")
    process.send_signal(signal.SIGUSR1)
    if not is_queued:
        assert "not queued again" in "".join(process.stdout.readline() for _ in range(2))  # below the stage's name
        assert process.poll() is None and calls("saved") == []
        return
    process.communicate(timeout=20)
    assert Path("calls").read_text().splitlines()[-2:] == ["saved train_diffusion.py", "scontrol requeue 7"]
    assert not (sweep_log() / "shared.done").exists()


# stands for python3 and, in the environment that it makes, for python: notes what is installed
INSTALLER = r"""#!/usr/bin/env bash
case "$1 $2" in
"-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
"-m pip") if [[ $* == *-r* ]]; then sleep 0.3 && echo "begin - ${*: -1}" >>calls; fi ;;
-c*) exec "$REAL" "$@" ;;
esac
"""


@pytest.mark.parametrize(
    ("active", "is_used"),
    [
        ({"VIRTUAL_ENV": "", "CONDA_PREFIX": "/opt/conda/envs/own", "CONDA_DEFAULT_ENV": "own"}, True),
        ({"VIRTUAL_ENV": "", "CONDA_PREFIX": "/opt/conda", "CONDA_DEFAULT_ENV": "base"}, False),
        ({"CONDA_PREFIX": "/opt/conda", "CONDA_DEFAULT_ENV": "base"}, True),
        ({"VIRTUAL_ENV": ""}, False),
    ],
)
def test_an_active_environment_is_used_but_for_condas_base(start, active, is_used):
    Path("bin/python3").write_text(INSTALLER)
    Path("bin/python3").chmod(0o755)
    for name in ("requirements.txt", "requirements-test.txt"):
        shutil.copy(ROOT / name, name)
    process = start("run.sh", "setup", REAL=sys.executable, **active)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 0, printed
    assert Path(".venv/bin/python").exists() != is_used


def test_without_python_in_the_active_environment_one_is_made(start):
    Path("bin/python").unlink()
    Path("bin/python3").write_text(INSTALLER)
    Path("bin/python3").chmod(0o755)
    for name in ("requirements.txt", "requirements-test.txt"):
        shutil.copy(ROOT / name, name)
    for tool in ("bash", "cat", "chmod", "cp", "dirname", "grep", "mkdir", "sha256sum", "sleep"):
        Path("bin", tool).symlink_to(shutil.which(tool))
    process = start("run.sh", "setup", REAL=sys.executable, PATH=str(Path("bin").absolute()))
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 0 and Path(".venv/bin/python").exists(), printed


def test_an_environment_is_made_once_for_demo_and_tests_and_by_one_at_a_time(start):
    Path("bin/python3").write_text(INSTALLER)
    Path("bin/python3").chmod(0o755)
    for name in ("requirements.txt", "requirements-test.txt"):
        shutil.copy(ROOT / name, name)
    fresh = {"VIRTUAL_ENV": "", "REAL": sys.executable}

    def setup(*commands: str) -> list[str]:
        together = [start("run.sh", command, **fresh) for command in commands]
        for process in together:
            printed, _ = process.communicate(timeout=20)
            assert process.returncode == 0, printed
        found = calls()
        Path("calls").unlink(missing_ok=True)
        return found

    assert setup("setup", "setup", "setup") == ["requirements.txt"]
    assert setup("test") == ["requirements-test.txt"]
    assert setup("setup") == setup("test") == []
    with Path("requirements.txt").open("a") as file:
        file.write("another\n")
    assert setup("test") == ["requirements-test.txt"] and setup("setup") == []
