"""Serve detectors over HTTP: a page for people, POST /predict for programs."""

from realnet.commands import cli
from realnet.commands.serve import main

if __name__ == "__main__":
    cli.run(main)
