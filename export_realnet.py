"""Export a detector as one file for other machines: a bundle, ONNX or OpenVINO."""

from realnet.commands import cli
from realnet.commands.export import main

if __name__ == "__main__":
    cli.run(main)
