"""Load the server: requests a second against the pure network, latencies, and memory.

Usage: python -m benchmarks.serve [--config experiments/MTD/realnet.yaml] [--set KEY=VALUE ...] [--requests 1000]
       [--clients 4] [--device cpu]

The server runs as a process of its own. Each client sends a drawn JPEG of 800×600 pixels as soon as it has the answer
to the one before; on a CPU the clients share the cores with the server. The pure network is timed while no server
runs. "Memory" is that of the server after a tenth of the requests, which warm it up, and after all. Weights are random.
"""

import http.client
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks import drawn, measure
from benchmarks.predict import pure_seconds, resident
from realnet.detection.detector import Detector

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def server(detector: Path, device: str, clients: int) -> Iterator[tuple[int, int]]:
    """Start a server, and yield its process and port once it answers; SIGTERM ends it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--detector", str(detector), "--port", str(port), "--device", device, "--queue", str(clients)]
    process = subprocess.Popen([sys.executable, str(ROOT / "serve_realnet.py"), *flags], stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if process.poll() is not None:
                    raise SystemExit("the server did not start") from None
                time.sleep(0.1)
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def ask(port: int, bodies: Sequence[bytes], number: int) -> list[float]:
    """Send requests one after another over one connection; return the seconds of each."""
    connection, seconds = http.client.HTTPConnection("127.0.0.1", port), []
    for place in range(number):
        start = time.perf_counter()
        connection.request("POST", "/predict", bodies[place % len(bodies)], {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"the server answered {answer.status}")
        seconds.append(time.perf_counter() - start)
    return seconds


def load(port: int, bodies: Sequence[bytes], number: int, clients: int) -> tuple[float, list[float]]:
    """Let clients send requests at the same time; return the wall seconds of all, and the seconds of each."""
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        shares = threads.map(lambda _: ask(port, bodies, number // clients), range(clients))
        seconds = [one for share in shares for one in share]
    return time.perf_counter() - start, seconds


def main() -> None:
    """Print the figures."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--config", type=Path, default=Path("experiments/MTD/realnet.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=4)
    flags = parser.parse_args()
    print(measure.header(torch.device(flags.device)).splitlines()[0])
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "drawn.realnet")
        drawn.write_detector(path, flags.config, flags.overrides)
        photographs = drawn.write_photographs(Path(name, "photographs"), drawn.NUM_DRAWN)
        bodies = [photograph.read_bytes() for photograph in photographs]
        pure = pure_seconds(Detector.load(path, device=flags.device), photographs[0])
        with server(path, flags.device, flags.clients) as (process, port):
            load(port, bodies, max(flags.clients, flags.requests // 10), flags.clients)
            first = resident(process)
            wall, seconds = load(port, bodies, flags.requests, flags.clients)
            last = resident(process)
    middle, late, latest = np.percentile(seconds, [50, 95, 99]) * 1e3
    rate = len(seconds) / wall
    print(f"pure network     {1 / pure:8.1f} images a second")
    print(f"server           {rate:8.1f} requests a second, a share of {rate * pure:.2f}")
    print(f"latency          {middle:8.0f} ms (p50), {late:.0f} ms (p95), {latest:.0f} ms (p99)")
    print(f"memory           {first:8.0f} MB after a tenth, {last:.0f} MB after {len(seconds)} more")


if __name__ == "__main__":
    main()
