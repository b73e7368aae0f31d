"""Prepare images: index them, lay out published archives, add your own, look at them, and check them."""

import argparse
from collections.abc import Sequence
from typing import Any

from realnet.commands import cli
from realnet.commands.cli import location
from realnet.errors import as_called_here

EPILOG = """\
python prepare_data.py index   --dataset MVTec-AD            lists the images in data/MVTec-AD/samples/
python prepare_data.py visa    --source /path/to/VisA        the published archive, laid out in data/VisA/visa
python prepare_data.py mtd     --source /path/to/MTD         the published folders MT_*, laid out in data/MTD/mtd
python prepare_data.py solar                                 the solar cells of the package elpv-dataset
python prepare_data.py add     --name bolts --source PHOTOS  your own images, which stay where they are
python prepare_data.py preview --dataset bolts               a sheet of images, foregrounds and local anomalies
python prepare_data.py check   --dataset bolts               reads every file; exit code 2 if a finding is fatal
python prepare_data.py toy                                   draws the synthetic dataset of ./run.sh demo
python prepare_data.py toy-large                             draws one of large photographs with small defects

data/README.md shows the layouts. Each command takes --help.
"""

COMMANDS = {
    "index": ("list a dataset's training and test images", ("--dataset", "--class_name", "--dry-run")),
    "visa": ("lay out the published archive of VisA", ("--source", "--dry-run")),
    "mtd": ("lay out the published folders of Magnetic Tile Defects", ("--source", "--train-list", "--dry-run")),
    "solar": ("lay out the solar cells of the ELPV dataset", ("--from", "--dry-run")),
    "add": ("register your own images", ("--name", "--source", "--layout", "--force", "--dry-run")),
    "preview": (
        "draw normal images, their foreground and local anomalies",
        ("--dataset", "--class_name", "--num_images", "--output", "--config", "--set", "--seed"),
    ),
    "check": (
        "find what is wrong with a dataset's files",
        ("--dataset", "--class_name", "--config", "--set", "--seed"),
    ),
    "toy": ("draw the synthetic dataset", ("--force", "--dry-run")),
    "toy-large": ("draw a synthetic dataset of large photographs with small defects", ("--force", "--dry-run")),
}

FLAGS: dict[str, dict[str, Any]] = {
    "--dataset": {"required": True, "metavar": "NAME", "help": "a folder of experiments/"},
    "--class_name": {"nargs": "+", "default": ["all"], "metavar": "CLASS", "help": "one, several, or 'all' (default)"},
    "--name": {"required": True, "metavar": "NAME", "help": "the new dataset, a folder of experiments/"},
    "--source": {"required": True, "type": location, "metavar": "DIR", "help": "the folder of images"},
    "--from": {
        "type": location,
        "dest": "source",
        "metavar": "DIR",
        "help": "the folder that holds labels.csv and images/ (default: the installed package elpv-dataset)",
    },
    "--layout": {
        "default": "auto",
        "metavar": "LAYOUT",
        "help": "how that folder is laid out: auto (the default), class, mvtec, sorted, folder or folders; or a YAML "
        "file of globs and roles for what its names do not tell (see data/README.md)",
    },
    "--train-list": {
        "type": location,
        "metavar": "FILE",
        "help": "lists the images to train on (default: a fixed 80 %%)",
    },
    "--num_images": {"type": int, "default": 6, "metavar": "N", "help": "rows of the sheet"},
    "--output": {
        "type": location,
        "metavar": "DIR",
        "help": "for <class>.png (default: experiments/NAME/realnet_vis)",
    },
    "--config": {
        "type": location,
        "metavar": "FILE",
        "help": "a YAML file to use instead of the dataset's realnet.yaml",
    },
    "--set": {
        "action": "append",
        "default": [],
        "dest": "overrides",
        "metavar": "KEY=VALUE",
        "help": "override a key of realnet.yaml; may be given several times",
    },
    "--seed": {"type": int, "metavar": "N", "help": "replaces the config's seed"},
    "--force": {"action": "store_true", "help": "overwrite existing files"},
    "--dry-run": {"action": "store_true", "help": "show what would be done, and touch nothing"},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the subcommand that the flags name."""
    flags = _parser().parse_args(arguments)

    from realnet.preparation import preparation

    match flags.command:
        case "visa":
            preparation.lay_out_visa(flags.source, dry_run=flags.dry_run)
        case "mtd":
            preparation.lay_out_mtd(flags.source, train_list=flags.train_list, dry_run=flags.dry_run)
        case "solar":
            preparation.lay_out_solar(flags.source, dry_run=flags.dry_run)
        case "add":
            preparation.add_dataset(
                flags.name, flags.source, layout=flags.layout, force=flags.force, dry_run=flags.dry_run
            )
        case "toy" | "toy-large":
            preparation.draw_toy(flags.command, force=flags.force, dry_run=flags.dry_run)
        case _:
            _run_on_dataset(flags)


def _run_on_dataset(flags: argparse.Namespace) -> None:
    from realnet.config import RealNetConfig
    from realnet.data.registry import open_dataset
    from realnet.preparation import preparation

    dataset = open_dataset(flags.dataset)
    classes = cli.choose_classes(flags.class_name, dataset.classes, dataset.name)
    if flags.command == "index":
        preparation.index_images(dataset, classes, dry_run=flags.dry_run)
        return
    config = cli.load_config(RealNetConfig, "realnet", flags)
    if flags.command == "check":
        preparation.check_dataset(dataset, classes, config)
    else:
        preparation.preview_classes(dataset, classes, config, num_images=flags.num_images, output=flags.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=as_called_here(EPILOG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (description, flags) in COMMANDS.items():
        command = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
        for flag in flags:
            command.add_argument(flag, **FLAGS[flag])
    return parser
