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


def test_lines_that_a_run_did_not_write_are_dropped_where_it_goes_on(tmp_path):
    own = [json.dumps({"step": step, "loss": 0.5}) for step in (1, 2)]
    lines = [
        own[0].encode(),
        b'"text"',
        b'{"loss": 1}',
        b"\xff",
        b'{"step": null}',
        own[1].encode(),
        b'{"step": 2, "lo',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    with Run(tmp_path, ALONE) as run:
        run.open(RealNetConfig(), 2)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == own
