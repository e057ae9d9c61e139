"""Router and workers over RDMA verbs, in guests that have a Soft-RoCE device: inside.py says what must hold there."""
import shlex
import time
import unittest

from cluster import BIN, SOURCE
from guests import run_in_guests

LIMIT_S = 840  # of a run that takes less than a minute on a quiet machine
ENVIRONMENT = {
    "GUILDHALL_BIN": BIN,
    "GUILDHALL_STARTUP_LIMIT_S": 300,
    "PYTHONPATH": SOURCE / "tests/api",
    "PYTHONDONTWRITEBYTECODE": 1,
    # UCX 1.13 takes Soft-RoCE's datagrams over IPv4 for other hosts' unless told not to look.
    "UCX_UD_VERBS_ETH_DGID_CHECK": "n",
}


class RdmaGuests(unittest.TestCase):
    def run_inside(self, name, count, processors):
        begin = time.monotonic()
        environment = "".join(f"export {key}={shlex.quote(str(value))}\n" for key, value in ENVIRONMENT.items())
        outputs = run_in_guests(f"{environment}cd {shlex.quote(str(SOURCE / 'tests/rdma'))}\n"
                                f"python3 -m unittest -v inside.{name}\n", count, processors, LIMIT_S)
        for rank, output in enumerate(outputs):
            print(f"--- guest {rank}\n{output}", flush=True)
        print(f"{time.monotonic() - begin:.0f} s", flush=True)

    def test_one_guest(self):
        self.run_inside("OneGuest", count=1, processors=2)

    def test_two_guests_and_a_lossy_wire(self):
        self.run_inside("TwoGuests", count=2, processors=1)


if __name__ == "__main__":
    unittest.main()
