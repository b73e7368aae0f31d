import copy
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from outcomes import FLAGS, assert_the_same, outcome
from processes import Ended, run_script_together, run_together
from torch import nn

from realnet.config import OptimiserConfig
from realnet.data.items import DiffusionDataset
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.models.afs import AFS, Block, Selection, afs_criteria
from realnet.models.backbone import Level
from realnet.runtime import batch_norm, distributed
from realnet.runtime.precision import resolve
from realnet.training import exchange, state
from realnet.training.optimisation import Optimisation
from tests.closed_form import fill, wave


def assert_well(ended: list[Ended]) -> None:
    assert [one.code for one in ended] == [0] * len(ended), "\n".join(one.err for one in ended)


def assert_failed(ended: list[Ended], code: int, message: str, *, printed_by: int | None) -> None:
    """All end with the code, and one of them (None: any one), with the message alone."""
    assert [one.code for one in ended] == [code] * len(ended), "\n".join(one.err for one in ended)
    printed = [one.err.count(message) for one in ended]
    assert sum(printed) == 1 and (printed_by is None or printed[printed_by])
    assert not any("Connection closed" in one.err for one in ended)
    assert code == 1 or not any("Traceback" in one.err for one in ended)


def batch_norms() -> nn.Sequential:
    learnt = fill(nn.Conv2d(5, 6, 3)), nn.BatchNorm2d(6, momentum=0.3), nn.Conv2d(6, 4, 1)
    model = nn.Sequential(*learnt, nn.BatchNorm2d(4, affine=False, momentum=0.9))
    with torch.no_grad():
        model[1].weight.copy_(wave("weight", 6))
        model[1].bias.copy_(wave("bias", 6))
        fill(model[2])
    return model


def optimisation(model: nn.Module) -> Optimisation:
    precision = resolve("fp32", torch.device("cpu"))
    return Optimisation(model.parameters(), OptimiserConfig(learning_rate=0.1), num_steps=10, precision=precision)


def check_arithmetic() -> None:
    with distributed.join_world("cpu") as world:
        check_batch_norms(world.rank)
        check_half_precision(world.rank)
        check_own_statistics(world.rank)
        check_exchange(world.rank)
        check_features(world.rank)
        assert distributed.any_process(world.rank == 1) and not distributed.any_process(False)
        assert distributed.gather(f"of {world.rank}") == ["of 0", "of 1"]
        state.require_agreement({"class": "weave"})
        with pytest.raises(UserError, match=r"a shared file system(.|\n)*steps done: \[0, 1\]$"):
            state.require_agreement({"class": "weave", "steps done": world.rank})


def leave_while_the_watch_works() -> None:
    ended = []
    distributed._watch = lambda left: (left.wait(), time.sleep(0.2), ended.append(True))
    with distributed.join_world("cpu"):
        pass
    assert ended


def check_batch_norms(rank: int) -> None:
    """Two halves of a batch give the loss, the gradients, and the statistics of the whole."""
    x = wave("x", 6, 5, 7, 8) + torch.tensor([0.0, 0, 0, 9, 9, 9])[:, None, None, None]  # the halves differ
    whole, joint = batch_norms(), batch_norms()
    batch_norm.join_batch_norms(joint)
    assert [type(layer) is type(other) for layer, other in zip(joint, whole, strict=True)] == [True, False, True, False]
    assert list(joint.state_dict()) == list(whole.state_dict())
    for _ in range(2):
        loss, mine = whole(x).pow(3).mean(), joint(x.chunk(2)[rank]).pow(3).mean()
        torch.testing.assert_close(distributed.mean(mine.detach()), loss.detach())
        loss.backward()
        mine.backward()
    exchange.GradientExchange(list(joint.parameters())).finish()
    for (name, a), b in zip(whole.named_parameters(), joint.parameters(), strict=True):
        if name != "0.bias" and name != "2.bias":  # their gradients are rounding: the batch norms take them away
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)
    for (name, a), b in zip(whole.state_dict().items(), joint.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    torch.testing.assert_close(whole.eval()(x[:1]), joint.eval()(x[:1]))


def check_own_statistics(rank: int) -> None:
    """Each process normalises by its own half, and the running statistics become the mean of both halves'."""
    halves, mine = wave("x", 6, 5, 7, 8).chunk(2), batch_norms()
    both = [batch_norms() for _ in halves]
    expected = [model(half) for model, half in zip(both, halves, strict=True)]
    torch.testing.assert_close(mine(halves[rank]), expected[rank])
    batch_norm.average_running_statistics(mine)
    for key in ("1.running_mean", "1.running_var", "3.running_mean", "3.running_var"):
        torch.testing.assert_close(mine.state_dict()[key], sum(model.state_dict()[key] for model in both) / 2)


def check_exchange(rank: int) -> None:
    """Micro-batches on two processes make the step of the whole batch; each bucket is sent once, as early as it can.

    The layer in the middle is used twice, and the first has no gradients.
    """
    exchange.BUCKET_ELEMENTS, exchange.TRAVELLING_BUCKETS = 20, 2
    x = wave("x", 8, 4)
    layers = [fill(nn.Linear(4, 4)) for _ in range(5)]
    together = copy.deepcopy(layers)
    alone_steps, steps = (optimisation(nn.ModuleList(of)) for of in (layers, together))
    alone_steps.exchange = exchange.GradientExchange([])
    sent: list[str] = []
    send = distributed.dist.all_reduce

    def count(tensor, **options):
        sent.append(f"{tensor.numel()}")
        return send(tensor, **options)

    distributed.dist.all_reduce = count
    together[1].weight.register_hook(lambda gradient: sent.append("first gradient made"))
    for step in range(2):
        alone_steps.backward(output_of(layers, x).square().mean())
        for number, part in enumerate(x.chunk(2)[rank].chunk(2)):
            steps.backward(output_of(together, part).square().mean() / 2, is_last=number == 1)
            assert number == 1 or sent == ["first gradient made"]
        alone_steps.step(step)
        steps.step(step)
        assert sent == ["first gradient made", "20", "20", "20", "first gradient made", "20"]
        sent.clear()
    distributed.dist.all_reduce = send
    for one, other in zip(layers, together, strict=True):
        torch.testing.assert_close(one.weight, other.weight)
    assert together[0].weight.grad is None


def output_of(layers: list[nn.Linear], x: torch.Tensor) -> torch.Tensor:
    _, first, middle, *last = layers
    return last[1](last[0](middle(middle(first(x)).tanh()).tanh()).tanh())


def check_half_precision(rank: int) -> None:
    x = wave("x", 4, 3, 5, 5).bfloat16() + 100
    whole, joint = nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3))
    batch_norm.join_batch_norms(joint)
    with torch.autocast("cpu", torch.bfloat16):
        assert joint(x.chunk(2)[rank]).dtype == whole(x).dtype == torch.bfloat16
    torch.testing.assert_close(joint[0].running_mean, whole.running_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(joint[0].running_var, whole.running_var, rtol=1e-4, atol=0)


def check_features(rank: int) -> None:
    afs = AFS([Block("block", 4, (Selection(Level("layer1", 12, 4), 4),))])
    clean, change, mask = wave("clean", 4, 12, 8, 8), wave("change", 4, 12, 8, 8), torch.zeros(4, 1, 32, 32)
    mask[:, :, 8:20, 16:30] = 1
    pair = ({"layer1": clean + change * torch.arange(1.0, 5)[:, None, None, None]}, {"layer1": clean})
    halves = [{name: value.chunk(2)[rank] for name, value in levels.items()} for levels in pair]
    expected = afs_criteria(afs, *pair, mask)["block_layer1"]
    mine = afs_criteria(afs, *halves, mask.chunk(2)[rank], joint_maximum=distributed.maximum)["block_layer1"]
    torch.testing.assert_close(distributed.mean(mine), expected)


def test_two_processes_compute_what_one_does_on_the_joined_batch(tiny):
    assert_well(run_together(check_arithmetic))


def test_no_thread_is_left_in_torchs_code_where_a_process_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_well(run_together(leave_while_the_watch_works))


def test_a_process_waits_for_another_longer_than_any_message_would(monkeypatch):
    store, order = torch.distributed.HashStore(), []
    monkeypatch.setattr(distributed, "_store", lambda: store)
    monkeypatch.setattr(distributed, "_meetings", iter([7]))
    monkeypatch.setattr(distributed, "gather", lambda value: order.append("message") or [value])
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)

    def end_work() -> None:
        order.append("other ends")
        store.add("meeting 7 of start 0", 1)

    threading.Timer(0.2, end_work).start()
    with distributed.refusing_together():
        order.append("mine ends")
    assert order == ["mine ends", "other ends", "message"]


def test_one_process_leaves_batch_norms_and_values_as_they_are():
    model, value = batch_norms(), torch.ones(2)
    batch_norm.join_batch_norms(model)
    assert type(model[1]) is nn.BatchNorm2d
    assert distributed.mean(value) is value and distributed.maximum(value) is value


def test_two_processes_train_the_classifier_of_one(tiny, run_script):
    run_script("train_classifier", *FLAGS, "--set", "train.batch_size=4")
    alone = outcome("classifier")
    assert_well(run_script_together("train_classifier", *FLAGS, "--set", "train.batch_size=2"))
    assert_the_same(alone, outcome("classifier"), num_steps=3)


def test_two_processes_train_the_detector_of_one(tiny, run_script):
    flags = (*FLAGS, "--class_name", "weave")
    run_script("train_realnet", *flags, "--set", "train.batch_size=6")
    alone = outcome("realnet", "weave")
    assert_well(run_script_together("train_realnet", *flags, "--set", "train.batch_size=3"))
    together = outcome("realnet", "weave")
    for key in (key for key in alone.weights if key.startswith("afs.")):
        assert torch.equal(alone.weights[key], together.weights[key])
    assert_the_same(alone, together, num_steps=4)


@pytest.fixture
def one_thread():
    """This process computes with one thread, as each of several does: more threads sum in another order."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


@pytest.mark.usefixtures("one_thread")
def test_samples_are_the_same_files_for_any_number_of_processes_and_batch_size(tiny, run_script):
    for script in ("train_diffusion", "train_classifier"):
        run_script(script, "--dataset", "tiny", "--set", "train.num_steps=1", "--set", "optimiser.learning_rate=0.01")
    flags = ("sample", "--dataset", "tiny", "--classes", "widget", "--num_samples", "5")
    run_script(*flags, "--output", "alone")
    unlike = {"settings.yaml", ".checksums.json"}  # of which the second holds times
    files = {path.name: path.read_bytes() for path in Path("alone/widget").iterdir() if path.name not in unlike}
    assert len(files) == 9  # with manifest, scores, descriptions, and the list of what is sampling's own
    for batch_size in (1, 3):
        folder = f"together_{batch_size}"
        ended = run_script_together(*flags, "--output", folder, "--set", f"batch_size={batch_size}")
        assert_well(ended)
        assert "5 new images of 5" in ended[0].out and not ended[1].out
        assert {name: Path(folder, "widget", name).read_bytes() for name in files} == files

    ended = run_script_together(*flags, "--output", "alone", "--strength", "0", "0")  # refused by rank 0 alone
    assert_failed(ended, 2, "replace them with --no-resume", printed_by=0)


def with_a_truncated_image(name: str, *arguments: str) -> None:
    """The script, where the second process finds an image truncated in the second pass over the data."""
    read = DiffusionDataset.__getitem__

    def read_or_fail(dataset, key):
        if os.environ["RANK"] == "1" and key[0] == 1:
            raise UserError("weave/train/good/003.png is truncated; replace it")
        return read(dataset, key)

    DiffusionDataset.__getitem__ = read_or_fail
    from processes import script

    script(name, *arguments)


def with_a_full_disk(name: str, *arguments: str) -> None:
    def refuse(values, file):
        raise OSError(28, "No space left on device")

    torch.save = refuse
    from processes import script

    script(name, *arguments)


def test_an_image_that_one_process_cannot_read_ends_all(tiny):
    ended = run_together(with_a_truncated_image, "train_classifier", "--dataset", "tiny")
    says = "error: weave/train/good/003.png is truncated; replace it; the saved state is of step 1, and the same"
    assert_failed(ended, 2, says, printed_by=None)
    assert checkpoint.read(Path("experiments/tiny/classifier_checkpoints/ckpt_last.state.pth"))["step"] == 1


def test_a_disk_that_is_full_for_the_one_that_writes_ends_all(tiny):
    ended = run_together(with_a_full_disk, "train_classifier", "--dataset", "tiny")
    assert_failed(ended, 2, "No space left on device); free some disk space", printed_by=0)


def err_while_the_other_computes() -> None:
    with distributed.join_world("cpu") as world:
        distributed.barrier()
        if world.rank == 1:
            raise ZeroDivisionError("a bug")
        time.sleep(600)


def err_before_the_other_can_meet_it() -> None:
    if os.environ["RANK"] == "1":
        raise UserError("data are missing on this machine; copy them")
    with distributed.join_world("cpu"):
        raise AssertionError("alone")


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        (err_while_the_other_computes, 1, "ZeroDivisionError: a bug"),
        (err_before_the_other_can_meet_it, 2, "error: data are missing on this machine; copy them\n"),
    ],
)
def test_a_process_that_waits_ends_with_the_one_that_failed(tiny, target, code, message):
    assert_failed(run_together(target), code, message, printed_by=1)


def test_processes_that_share_a_gpu_are_refused(monkeypatch):
    gpus = iter(["GPU-1", "GPU-2"])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=next(gpus)))
    monkeypatch.setattr(distributed, "gather", lambda gpu: [gpu, "GPU-2", "GPU-3"])
    distributed.require_own_gpus(torch.device("cuda", 0))
    with pytest.raises(UserError, match=r"3 processes were started on 2 GPUs(.|\n)*--nproc_per_node"):
        distributed.require_own_gpus(torch.device("cuda", 1))


@pytest.mark.parametrize(("gpu", "apple", "name"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_where_no_device_is_named_the_best_is_taken(monkeypatch, gpu, apple, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    assert distributed.best_device().type == distributed.plan_world(number_format="fp32").device.type == name
