"""What all scripts share: flags, exit codes, and the way they refuse bad input."""

import argparse
import gc
import json
import logging
import os
import sys
import traceback
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from realnet import config as configs
from realnet.config import paths
from realnet.errors import UserError, advice_on, as_called_here, message_of
from realnet.runtime import threads

threads.spin_briefly()

ConfigT = TypeVar("ConfigT", bound=configs.Section)


def parser(
    description: str,
    *,
    class_name: bool = False,
    resume: bool = False,
    seeds: bool = False,
    needs_dataset: bool = True,
    epilog: str = "",
) -> argparse.ArgumentParser:
    """Return a parser with the flags that every script takes."""
    made = argparse.ArgumentParser(
        description=description,
        epilog=as_called_here(epilog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--dataset", required=needs_dataset, metavar="NAME", help="a folder of experiments/, such as toy or MVTec-AD"
    )
    if class_name:
        made.add_argument(
            "--class_name",
            nargs="+",
            default=["all"],
            metavar="CLASS",
            help="one class, several, or 'all' (the default); of detectors also 'unified', one for all classes",
        )
    made.add_argument("--config", type=location, metavar="FILE", help="a YAML file to use instead of the dataset's own")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="override a key of the config, such as train.batch_size=8; may be given several times",
    )
    randomness = made.add_mutually_exclusive_group()
    randomness.add_argument("--seed", type=int, metavar="N", help="replaces the config's seed")
    if seeds:
        randomness.add_argument(
            "--seeds",
            type=int,
            nargs="+",
            metavar="N",
            help="one detector for each seed, in the folders <class>/seed_<N>; evaluation gives mean and spread",
        )
    made.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 or mps (default: a GPU if there is one)")
    if resume:
        made.add_argument(
            "--resume",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="resume what earlier runs left (the default), or start from scratch",
        )
    made.add_argument("--dry-run", action="store_true", help="check everything, print the plan, and touch nothing")
    made.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)  # for torch.distributed.launch
    return made


def location(text: str) -> Path:
    """Return the path that a flag gives, relative to the folder in which the command was started."""
    return _started_in / text


_started_in = Path()


def _enter_home() -> None:
    """Make the folder that ``REALNET_HOME`` names, if it does, the working folder."""
    global _started_in  # noqa: PLW0603 - a process has one working folder
    if home := os.environ.get("REALNET_HOME"):
        _started_in = Path.cwd()
        try:
            Path(home).expanduser().mkdir(parents=True, exist_ok=True)
            os.chdir(Path(home).expanduser())
        except OSError as error:
            raise UserError(f"REALNET_HOME {home} cannot be used: {error.strerror}; name another folder") from error


def load_config(model: type[ConfigT], stage: paths.Stage, arguments: argparse.Namespace) -> ConfigT:
    """Read a stage's config, and apply ``--set`` and ``--seed``.

    Raises:
        UserError: if the dataset is unknown, or the file or an override is invalid.
    """
    path = arguments.config or paths.config_file(arguments.dataset, stage)
    if not (arguments.config or path.is_file()):
        configs.load_dataset(arguments.dataset)  # for an unknown dataset, the error lists the known ones
    seed = [] if arguments.seed is None else [f"seed={arguments.seed}"]
    return configs.load(model, path, [*arguments.overrides, *seed])


def detector_parser(description: str, *, epilog: str) -> argparse.ArgumentParser:
    """Return a parser for scripts that use a finished detector: that of a class, or any by its file."""
    made = parser(description, class_name=True, needs_dataset=False, epilog=epilog)
    made.add_argument(
        "--detector",
        type=location,
        metavar="FILE",
        help="a checkpoint, a bundle, an ONNX file or an OpenVINO model; needs no dataset",
    )
    return made


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Let a script's user choose what runs an ONNX file."""
    parser.add_argument(
        "--runtime",
        choices=("openvino", "onnxruntime"),
        help="runs an ONNX file (default: the installed one that was faster when it was exported)",
    )


def find_detector(flags: argparse.Namespace) -> tuple[Path, str | None]:
    """Return the file of the detector that the flags name, and its class, if they name it.

    Raises:
        UserError: if they name none, or one that does not exist.
    """
    checkpoint = getattr(flags, "checkpoint", None)
    if flags.detector and checkpoint:
        raise UserError(f"--detector {flags.detector} and --checkpoint {checkpoint} both name one; leave one out")
    if flags.detector:
        if not flags.detector.is_file():
            raise UserError(f"--detector {flags.detector} does not exist; give a detector's file")
        return flags.detector, flags.class_name[0] if flags.class_name != ["all"] else None
    if not flags.dataset:
        raise UserError("name the detector: --detector FILE, or --dataset NAME and --class_name CLASS")

    from realnet.detection.checkpoints import choose_detector

    class_name, path = choose_detector(flags.dataset, flags.class_name, checkpoint)
    return path, class_name


def load_config_of_use(flags: argparse.Namespace) -> configs.RealNetConfig | None:
    """Return the settings to use a detector with; None, for those in its file, where the flags give none.

    Raises:
        UserError: as :func:`load_config`.
    """
    if flags.dataset or flags.config:
        return load_config(configs.RealNetConfig, "realnet", flags)
    return configs.load(configs.RealNetConfig, None, flags.overrides) if flags.overrides else None


def choose_classes(wanted: Sequence[str], known: Sequence[str], dataset: str) -> list[str]:
    """Return the classes that the flags name; ``all`` stands for every known class.

    Raises:
        UserError: if a class is unknown; the message lists the known ones.
    """
    if list(wanted) == ["all"]:
        return list(known)
    by_name = {unicodedata.normalize("NFC", name): name for name in known}  # macOS stores names decomposed
    chosen = {name: by_name.get(unicodedata.normalize("NFC", name)) for name in wanted}
    unknown = [name for name, found in chosen.items() if found is None]
    if unknown:
        raise UserError(f"{dataset} has no class {', '.join(map(repr, unknown))}; its classes: {', '.join(known)}")
    return list(dict.fromkeys(found for found in chosen.values() if found is not None))


def choose_detectors(wanted: Sequence[str], known: Sequence[str], dataset: str) -> list[str]:
    """Return the classes that the flags name, and ``unified`` at the end if they name the one detector of all classes.

    Raises:
        UserError: as :func:`choose_classes`, and if there is only one class.
    """
    from realnet.data.registry import UNIFIED, is_unified

    if UNIFIED not in wanted or not is_unified(UNIFIED, known):
        return choose_classes(wanted, known, dataset)
    if len(known) < 2:
        raise UserError(f"{UNIFIED} is one detector of all classes, and {dataset} has one class: name {known[0]}")
    others = [name for name in wanted if name != UNIFIED]
    return [*(choose_classes(others, known, dataset) if others else []), UNIFIED]


def seeds_of(flags: argparse.Namespace) -> list[int] | list[None]:
    """Return the seeds that ``--seeds`` names; without the flag None, for the config's own.

    Raises:
        UserError: if one is named twice or impossible, or if ``--set`` names the seed too.
    """
    if flags.seeds is None:
        return [None]
    named = " ".join(map(str, flags.seeds))
    if len(set(flags.seeds)) < len(flags.seeds):
        raise UserError(f"--seeds {named} names a seed twice; name each once")
    if min(flags.seeds) < 0 or max(flags.seeds) >= 2**63:
        raise UserError(f"--seeds {named}: a seed is a number from 0 to 2^63 - 1")
    if any(override.partition("=")[0] == "seed" for override in flags.overrides):
        raise UserError(f"--set seed and --seeds {named} both give the seed; leave one out")
    return list(flags.seeds)


def overrides(values: Mapping[str, object]) -> list[str]:
    """Return ``--set`` arguments for flags that stand for config keys; None means that a flag was not given."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def close(is_main: bool, *lines: str) -> None:
    """Print what was written, where, and the next command; only on the main process."""
    if is_main:
        print(*map(as_called_here, lines), sep="\n", flush=True)


def run(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Run a script's main, and exit with the code that it returns (None: 0).

    Bad input, a full disk and too little memory end the script with one message and exit code 2. If one of several
    processes fails, all end with its exit code.
    """
    gc.set_threshold(20_000)  # with Python's default, about 700, collecting garbage takes a tenth of the import time
    if os.environ.get("RANK", "0") != "0":
        logging.getLogger("realnet").setLevel(logging.ERROR)  # only one process gives advice
    try:
        _enter_home()
        sys.exit(main(None))
    except UserError as error:
        _fail(f"error: {message_of(error)}", 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:
        advice = advice_on(error)
        _fail(*(f"error: {advice}", 2) if advice else (traceback.format_exc().rstrip(), 1))


def _fail(text: str, code: int) -> NoReturn:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from realnet.runtime import distributed

        distributed.fail(text, code)
    print(text, file=sys.stderr, flush=True)
    _let_go(sys.exception())
    sys.exit(code)


def _let_go(error: BaseException | None) -> None:
    """Drop what the frames of an error hold: at exit, workers of a loader no longer hear that they are not needed."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
