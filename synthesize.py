"""Make local anomalies as a product: images, masks, the normal images they came from, and a manifest."""

from realnet.commands import cli
from realnet.commands.synthesize import main

if __name__ == "__main__":
    cli.run(main)
