"""Count what a server does, for Prometheus."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Counters:
    """Requests by path and status, and the seconds that predictions took, waiting included."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds, self._predictions = 0.0, 0

    def count(self, path: str, status: int) -> None:
        """Count a request."""
        self._requests[path, status] += 1

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the block's time to that of predictions, if it ends without error."""
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start
        self._predictions += 1

    def text(self, *, waiting: int) -> str:
        """Return the counters in Prometheus's text format."""
        return "".join(
            [
                "# TYPE realnet_requests_total counter\n",
                *(
                    f'realnet_requests_total{{path="{path}",status="{status}"}} {number}\n'
                    for (path, status), number in sorted(self._requests.items())
                ),
                "# TYPE realnet_prediction_seconds summary\n",
                f"realnet_prediction_seconds_sum {self._seconds:.6f}\n",
                f"realnet_prediction_seconds_count {self._predictions}\n",
                "# TYPE realnet_waiting gauge\n",
                f"realnet_waiting {waiting}\n",
            ]
        )
