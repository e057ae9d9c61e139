"""What the guests run: over rxe0, golden checkpoints must give the bits that loopback gives on the same processor, and
the device must have carried them."""
import contextlib
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time
import unittest

from cluster import BIN, GOLDEN, Cluster, config_text

RANK = int(os.environ["RANK"])
ROUTER_HOST, WORKER_HOST = "10.77.0.1", "10.77.0.2"  # the first guest, the second
ENDED = pathlib.Path("/shared/ended")                # the first tells the second
COUNTERS = pathlib.Path("/sys/class/infiniband/rxe0/ports/1/hw_counters")
LOSS = "1%"
RECOVERIES = ("completer_retry_err", "duplicate_request", "out_of_seq_request", "rcvd_seq_err")
NUM_GREEDY = 16
LONGEST_PROMPT = 100  # longer ones cost an emulated processor many seconds
# Lanes of the router's endpoints. rc_v sets itself up over datagrams (UD), which ud_v uses for everything.
LANES = {"rc_v,self": "ucx rc_verbs/rxe0:1+ud_verbs/rxe0:1", "ud_v,self": "ucx ud_verbs/rxe0:1"}


def answers(cluster, case):
    """Of each of the checkpoint's prompts: tokens and log-probabilities of itself and of a greedy continuation, to the
    last digit."""
    prompts = [p["ids"] for p in json.loads((GOLDEN / case / "expected.json").read_text())["prompts"]]
    replies = [cluster.complete(prompt=prompt, max_tokens=NUM_GREEDY, temperature=0, logprobs=0, echo=True,
                                ignore_eos=True) for prompt in prompts if len(prompt) <= LONGEST_PROMPT]
    return json.dumps([reply["choices"][0]["logprobs"] for reply in replies], indent=1)


def loopback(case):
    with Cluster(GOLDEN / case, kind="loopback", threads=1) as cluster:
        return answers(cluster, case)


def over(tls, case, **options):
    """A cluster whose frames have rxe0 only. It is patient: a processor emulated on a busy machine is slow, no more."""
    transport = f'deadline: 100s, heartbeat: 10s, ucx: {{tls: "{tls}", net_devices: "rxe0:1"}}'
    return Cluster(GOLDEN / case, threads=1, transport=transport, **options)


def device_counters():
    """Those that count packets and events since the device was made, by name."""
    return {file.name: int(file.read_text()) for file in sorted(COUNTERS.iterdir()) if file.name != "lifespan"}


class Rdma(unittest.TestCase):
    maxDiff = 2000

    @contextlib.contextmanager
    def carried_by_rxe0(self, cluster, tls):
        """Around requests: the router reaches every worker over rxe0 alone, and the device counts what they cause."""
        for worker in cluster.get("/health")[1]["workers"]:
            self.assertEqual(worker["transport"], LANES[tls], worker)
        before, begin = device_counters(), time.monotonic()
        yield
        after, seconds = device_counters(), time.monotonic() - begin
        for line in re.findall(r"r0 (?:ucx_connected|ucx_slots).*", cluster.output()):
            print(line, flush=True)
        print(f"{tls}: {seconds:.1f} s; device's counters before and after:",
              ", ".join(f"{name} {before[name]} {after[name]}" for name in after if after[name]), flush=True)
        for name in ("sent_pkts", "rcvd_pkts", "rdma_sends", "rdma_recvs"):
            self.assertGreater(after[name] - before[name], 50, name)

    def expect_same_bits(self, cluster, tls, case, expected):
        with self.carried_by_rxe0(cluster, tls):
            self.assertEqual(answers(cluster, case), expected)


class OneGuest(Rdma):
    """A router and two workers, which send to each other through the one device."""
    CASE = "deepseek_v3_f32"

    @classmethod
    def setUpClass(cls):
        cls.expected = loopback(cls.CASE)

    def test_reliable_connections_give_loopbacks_bits(self):
        with over("rc_v,self", self.CASE) as cluster:
            self.expect_same_bits(cluster, "rc_v,self", self.CASE, self.expected)

    def test_datagrams_give_loopbacks_bits(self):
        with over("ud_v,self", self.CASE) as cluster:
            self.expect_same_bits(cluster, "ud_v,self", self.CASE, self.expected)

    def test_too_little_lockable_memory_is_named(self):
        _, text = config_text(GOLDEN / self.CASE, transport='ucx: {tls: "rc_v,self", net_devices: "rxe0:1"}')
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
            config.write(text)
            config.flush()
            ended = subprocess.run(["prlimit", "--memlock=65536:65536", "setpriv", "--bounding-set=-ipc_lock",
                                    BIN / "guildhall-expert", "--config", config.name, "--name", "w0"],
                                   capture_output=True, text=True, timeout=120)
        self.assertEqual(ended.returncode, 1, ended)
        self.assertIn("may lock 64.0 KiB: `ulimit -l unlimited`", ended.stderr)


class TwoGuests(Rdma):
    """The router in the first guest, a worker in the second, and a wire between them that loses packets."""
    CASE = "qwen3_moe_f32"

    def test_lost_packets_change_nothing(self):
        if RANK == 0:
            self.addCleanup(ENDED.touch)
            expected = loopback(self.CASE)
        subprocess.run(["tc", "qdisc", "add", "dev", "eth0", "root", "netem", "loss", LOSS], check=True)
        with over("rc_v,self", self.CASE, num_workers=1, router_host=ROUTER_HOST, worker_host=WORKER_HOST, port=8000,
                  worker_ports=[7000]) as cluster:  # each guest starts what belongs there
            if RANK == 0:
                self.expect_same_bits(cluster, "rc_v,self", self.CASE, expected)
                while not any(device_counters()[name] for name in RECOVERIES):  # nothing that mattered was lost yet
                    self.expect_same_bits(cluster, "rc_v,self", self.CASE, expected)
            while RANK == 1 and not ENDED.exists():
                time.sleep(0.2)
        queue = subprocess.run(["tc", "-s", "qdisc", "show", "dev", "eth0"], check=True, capture_output=True, text=True)
        print(f"packets lost from guest {RANK}:", re.search(r"dropped (\d+)", queue.stdout).group(1), flush=True)


if __name__ == "__main__":
    unittest.main()
