"""Stage 1: train a dataset's diffusion model on the normal images of all its classes."""

from realnet.commands import cli
from realnet.commands.train_diffusion import main

if __name__ == "__main__":
    cli.run(main)
