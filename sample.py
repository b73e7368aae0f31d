"""Stage 3: sample anomalous images of each class from the diffusion model (SDAS), at the strength you choose."""

from realnet.commands import cli
from realnet.commands.sample import main

if __name__ == "__main__":
    cli.run(main)
