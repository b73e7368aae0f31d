"""In a process of its own, as the tests' own process has the compiler."""

import subprocess
import sys

STORY = """
import sys
from realnet.models.backbone import measure_levels
from realnet.models.compiler import without_compiler

for name in ("tf_efficientnet_lite0", "torchvision/shufflenet_v2_x0_5"):
    assert measure_levels(name, (64, 64))
assert not {"torch._dynamo", "sympy"} & sys.modules.keys(), "imported too early"

import torch
with without_compiler():
    disabled = torch.compiler.disable(lambda text: len(text), reason="of a test")
    assert "torch._dynamo.eval_frame" not in sys.modules, "imported by the decorator"
    from torch._dynamo.utils import counters
from torch._dynamo import utils
assert counters is utils.counters, "a stand-in remains"
assert disabled("ab") == 2

from torchvision.ops import roi_align  # the function
deferred = sys.modules["torchvision.ops.roi_align"].is_compile_supported
assert deferred is not utils.is_compile_supported, "torchvision needs no detour any more: remove it"
assert deferred("cpu") == utils.is_compile_supported("cpu")
assert torch.compile(torch.neg, backend="eager")(torch.ones(1)) == -1
"""


def test_the_compiler_is_imported_by_whom_needs_it_alone():
    ended = subprocess.run([sys.executable, "-c", STORY], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
