"""Three processes share two cores: idle they cost next to nothing, busy they do not starve each other."""
import concurrent.futures
import http.client
import json
import os
import time
import unittest

from cluster import DEMO, Cluster

PROCESSES = ("r0", "w0", "w1")
LOOK_S = 5
STREAMS, TOKENS = 8, 120


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()  # the name may have spaces; field 3 on follow it
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stream(port, index):
    """Tokens of one streamed completion, and its last finish reason."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/completions", json.dumps(
        {"prompt": f"And it came to pass in the year {index}", "max_tokens": TOKENS, "temperature": 0.8, "seed": index,
         "stream": True, "stream_options": {"include_usage": True}}), {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    events = [line[6:] for line in response.read().decode().splitlines() if line.startswith("data: ")]
    connection.close()
    assert events[-1] == "[DONE]", events[-1]
    parsed = [json.loads(event) for event in events[:-1]]
    reasons = [c["finish_reason"] for event in parsed for c in event["choices"] if c["finish_reason"]]
    return parsed[-1]["usage"]["completion_tokens"], reasons


class Idle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.before = os.sched_getaffinity(0)
        two = sorted(cls.before)[:2]
        os.sched_setaffinity(0, two)  # the cluster inherits it
        cls.addClassCleanup(os.sched_setaffinity, 0, cls.before)
        cls.cluster = cls.enterClassContext(Cluster(DEMO))

    def use(self):
        return {name: processor_seconds(self.cluster.worker_pid(name)) for name in PROCESSES}

    def expect_idle(self):
        time.sleep(1)  # what was under way ends
        before = self.use()
        time.sleep(LOOK_S)
        after = self.use()
        shares = {name: (after[name] - before[name]) / LOOK_S for name in PROCESSES}
        print("\nof one core:", ", ".join(f"{name} {share:.1%}" for name, share in shares.items()), flush=True)
        self.assertLess(sum(shares.values()), 0.10, shares)

    def test_ready_cluster_waits_without_spinning(self):
        self.expect_idle()

    def test_eight_streams_on_two_cores_all_finish_and_leave_it_idle(self):
        with concurrent.futures.ThreadPoolExecutor(STREAMS) as clients:
            ended = list(clients.map(lambda i: stream(self.cluster.port, i), range(STREAMS)))
        for tokens, reasons in ended:
            self.assertIn(reasons, (["length"], ["stop"]))
            if reasons == ["length"]:
                self.assertEqual(tokens, TOKENS)
        self.expect_idle()


if __name__ == "__main__":
    unittest.main()
