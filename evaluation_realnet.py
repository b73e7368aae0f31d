"""Stage 5: evaluate the detectors of one class or several on their test splits."""

from realnet.commands import cli
from realnet.commands.evaluate import main

if __name__ == "__main__":
    cli.run(main)
