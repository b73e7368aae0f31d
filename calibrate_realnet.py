"""Set a detector's thresholds anew on photographs, without training."""

from realnet.commands import cli
from realnet.commands.calibrate import main

if __name__ == "__main__":
    cli.run(main)
