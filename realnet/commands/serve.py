"""Serve detectors over HTTP: a page for people, POST /predict for programs."""

import argparse
from collections.abc import Sequence

from realnet.commands import cli
from realnet.commands.cli import location

EPILOG = """\
GET  /         a page: drop a photograph, see verdict and regions, move the threshold
POST /predict  an image's bytes, or a form with one file → a line of predictions.jsonl; ?detector=NAME chooses one
GET  /health, /metrics (Prometheus), /docs (OpenAPI)

It takes images alone, within the limits (413 and 415 beyond them); with too many waiting it answers 503. SIGTERM lets
it finish what it has begun. It has no passwords: put it behind a proxy before it listens on another address.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--detector",
        type=location,
        nargs="+",
        required=True,
        metavar="FILE",
        help="one or more",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this computer)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 or mps (default: a GPU if there is one)")
    cli.add_runtime(parser)
    parser.add_argument("--max_megabytes", type=float, default=32, metavar="N", help="of a request (default: 32)")
    parser.add_argument("--max_megapixels", type=float, default=50, metavar="N", help="of a photograph (default: 50)")
    parser.add_argument("--queue", type=int, default=16, metavar="N", help="photographs that may wait (default: 16)")
    flags = parser.parse_args(arguments)

    from realnet.detection.detector import Detector
    from realnet.errors import UserError

    try:
        import uvicorn

        from realnet.serving.app import Limits, create_app
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; install the server: pip install 'realnet[serve]'") from error

    detectors = {path.stem: Detector.load(path, device=flags.device, runtime=flags.runtime) for path in flags.detector}
    if len(detectors) < len(flags.detector):
        raise UserError("two files of --detector have the same name, which requests choose by; rename one")
    for name, detector in detectors.items():
        cli.close(True, f"detector   {name}, in {detector.runtime.name}")
    limits = Limits(
        num_bytes=round(flags.max_megabytes * 2**20),
        num_pixels=round(flags.max_megapixels * 1e6),
        waiting=flags.queue,
    )
    cli.close(True, f"listening  http://{flags.host}:{flags.port}")
    uvicorn.run(create_app(detectors, limits), host=flags.host, port=flags.port, log_level="warning")
