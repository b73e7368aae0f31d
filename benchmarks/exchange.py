"""Time training steps of several processes: gradients exchanged during the backward pass, and all of them after it.

Usage: python -m benchmarks.exchange [--processes 2 4] [--steps 5] [--threads 1]

The network is a U-Net of 18 million weights at 32 pixels; the processes share one machine and talk by gloo. Steps of
all kinds take turns. ``local`` is a step without any exchange: nothing can be faster.
"""

import argparse
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from realnet.config import DiffusionConfig, OptimiserConfig
from realnet.models.build import build_unet
from realnet.runtime import distributed
from realnet.training.exchange import GradientExchange
from realnet.training.optimisation import Optimisation

UNET = {"channels": 64, "channel_mult": [1, 2, 4], "num_res_blocks": 1, "attention_resolutions": [8]}
BATCH = 4


@contextmanager
def held_port() -> Iterator[int]:
    """Yield a port for the processes' store, which no other program can take: a socket that never listens holds it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the store does: both may have the port
        holder.bind(("", 0))
        yield holder.getsockname()[1]


def steps_of(rank: int, size: int, port: int, threads: int, repeats: int, found: "multiprocessing.Queue") -> None:
    """Train in one process; put rank 0's median seconds of each kind of step into the queue."""
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{size}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    torch.set_num_threads(threads)
    with distributed.join_world("cpu") as world:
        torch.manual_seed(0)
        unet = build_unet(DiffusionConfig(image_size=32, model=UNET, pretrained=None), 2)
        x, t, y = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.int64)
        overlapped = Optimisation(unet.parameters(), OptimiserConfig(), num_steps=1000, precision=world.precision)
        alone = GradientExchange([])
        exchange = overlapped.exchange

        def step(*, is_last: bool) -> None:
            overlapped.backward(unet(x, t, y).square().mean(), is_last=is_last)
            overlapped.step(0)

        def local() -> None:
            overlapped.exchange = alone
            step(is_last=True)
            overlapped.exchange = exchange

        kinds: dict[str, Callable[[], None]] = {
            "local": local,
            "after": lambda: step(is_last=False),
            "during": lambda: step(is_last=True),
        }
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(repeats + 1):
            for kind, work in kinds.items():
                distributed.barrier()
                start = time.perf_counter()
                work()
                distributed.barrier()
                times[kind].append(time.perf_counter() - start)
        if world.is_main:
            found.put({kind: statistics.median(values[1:]) for kind, values in times.items()})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    flags = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"{'processes':>9}{'local':>12}{'after':>12}{'during':>12}{'after / during':>16}")
    for size in flags.processes:
        found = context.Queue()
        with held_port() as port:
            arguments = (size, port, flags.threads, flags.steps, found)
            workers = [context.Process(target=steps_of, args=(rank, *arguments)) for rank in range(size)]
            for worker in workers:
                worker.start()
            times = found.get(timeout=600)
            for worker in workers:
                worker.join()
        cells = "".join(f"{times[kind] * 1e3:>9.0f} ms" for kind in ("local", "after", "during"))
        print(f"{size:>9}{cells}{times['after'] / times['during']:>14.2f} ×", flush=True)


if __name__ == "__main__":
    main()
