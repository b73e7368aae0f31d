"""Stage 2, optional: train the noise-aware classifier that guides sampling; a dataset of one class needs none."""

from realnet.commands import cli
from realnet.commands.train_classifier import main

if __name__ == "__main__":
    cli.run(main)
