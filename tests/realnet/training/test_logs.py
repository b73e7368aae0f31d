import json
import sys

import numpy as np
from alone import ALONE

from realnet.config import RealNetConfig
from realnet.training.logs import Run


def test_without_tensorboard_the_other_logs_are_written_and_it_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with Run(tmp_path, ALONE) as run:
        run.open(RealNetConfig(), 0)
        run.scalars(1, {"loss": 0.5})
        run.image(1, "samples", np.zeros((4, 4, 3), np.uint8), tmp_path / "samples.png")
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 0.5
    assert (tmp_path / "samples.png").is_file() and not (tmp_path / "tensorboard").exists()
    assert capsys.readouterr().out.count("no TensorBoard logs") == 1
