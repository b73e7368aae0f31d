"""The suite runs on small machines, several processes at a time: threads neither spin nor outnumber the cores."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
