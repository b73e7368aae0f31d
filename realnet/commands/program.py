"""The installed command ``realnet``: its verbs are the scripts of a checkout, and ``demo``."""

import importlib
import sys
from collections.abc import Sequence
from functools import partial
from types import ModuleType

import realnet
from realnet.commands import cli
from realnet.errors import VERBS

COMMANDS = (*VERBS.values(), "demo")


def main() -> None:
    """Run the verb that the command line names, and exit with its code."""
    verb, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if verb in {"-h", "--help"}:
        print(_usage())
    elif verb == "--version":
        print(f"realnet {realnet.__version__}")
    elif verb in COMMANDS:
        sys.argv[0] = f"realnet {verb}"  # what the usage and the errors of its flags call it
        cli.run(partial(_run, verb, arguments))
    else:
        print(f"error: realnet has no verb {verb!r}; it has {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def module_of(verb: str) -> ModuleType:
    """Return the module of a verb, which has its ``main``."""
    return importlib.import_module(f"realnet.commands.{verb.replace('-', '_')}")


def _run(verb: str, arguments: Sequence[str], _: Sequence[str] | None) -> int | None:
    return module_of(verb).main(arguments)


def _usage() -> str:
    summaries = {verb: (module_of(verb).__doc__ or "").splitlines()[0] for verb in COMMANDS}
    width = max(map(len, COMMANDS))
    lines = [f"  {verb:<{width}}  {summary}" for verb, summary in summaries.items()]
    return "\n".join(["usage: realnet VERB … (each verb takes --help), realnet --version", "", *lines])
