"""Predict: verdicts and heatmaps for an image or a folder of images, without ground truth."""

from realnet.commands import cli
from realnet.commands.predict import main

if __name__ == "__main__":
    cli.run(main)
