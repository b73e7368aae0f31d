"""Prepare images: index them, lay out published archives, add your own, look at them, and check them."""

from realnet.commands import cli
from realnet.commands.prepare import main

if __name__ == "__main__":
    cli.run(main)
