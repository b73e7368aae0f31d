"""Stage 4: train the detector of one class or several (AFS, reconstruction, RRS)."""

from realnet.commands import cli
from realnet.commands.train import main

if __name__ == "__main__":
    cli.run(main)
