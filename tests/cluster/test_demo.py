"""`deploy/demo` as a newcomer runs it: English out, an address that answers, and nothing left behind."""
import http.client
import os
import re
import signal
import subprocess
import threading
import time
import unittest

from cluster import SOURCE, free_ports

PROMPT = "Blessed is the man"
BUILD_LIMIT_S = 600       # nothing to build as a rule; ctest built it
FIRST_TOKEN_LIMIT_S = 30  # generous: the machine may be busy. A quiet one takes well under the 5 s that are promised.
COMMON = set("a all and are as be but by for from had have he him his i in is it man me my not of on shall that the "
             "their them they thou thy to unto was were which with you".split())


def processes_with(word):
    """Those whose command line has that word: no other test's cluster has this one's configuration."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
        except OSError:
            continue  # ended meanwhile
        if any(word in w for w in words) and any("guildhall" in w for w in words[:1]):
            found.append(pid)
    return found


class Demo(unittest.TestCase):
    def start(self, *options):
        self.port = free_ports(3)[0]
        self.output, self.started_at, self.first_token_at = b"", None, None
        self.config = f"build/demo-{self.port}.yaml"
        self.process = subprocess.Popen([SOURCE / "deploy/demo", "--port", str(self.port), *options],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(self.kill)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def kill(self):
        if self.process.poll() is None:
            self.process.terminate()  # its own cleanup ends the cluster
            self.process.wait(60)
        self.reader.join()
        self.process.stdout.close()

    def read(self):
        while chunk := os.read(self.process.stdout.fileno(), 4096):
            self.output += chunk
            if self.started_at is None and self.is_starting():
                self.started_at = time.monotonic()
            if self.first_token_at is None and re.search(rb"^" + PROMPT.encode() + b".", self.output, re.M):
                self.first_token_at = time.monotonic()

    def is_starting(self):
        return b"Starting " in self.output

    def text(self):
        return self.output.decode(errors="replace")

    def wait_for(self, words):
        deadline = time.monotonic() + BUILD_LIMIT_S
        while words not in self.text():
            self.assertIsNone(self.process.poll(), self.text())
            self.assertLess(time.monotonic(), deadline, self.text())
            time.sleep(0.02)

    def expect_english(self):
        completion = self.text().partition(f"\n{PROMPT}")[2].partition("\n\n")[0]
        words = re.findall(r"[a-z']+", completion.lower())
        self.assertGreaterEqual(len(words), 20, self.text())
        self.assertGreaterEqual(sum(word in COMMON for word in words), len(words) // 4, completion)

    def expect_quick_start(self):
        took = self.first_token_at - self.started_at
        print(f"\nfrom starting the processes to the first token: {took:.2f} s", flush=True)
        self.assertLess(took, FIRST_TOKEN_LIMIT_S)

    def expect_nothing_left(self):
        self.assertEqual(processes_with(self.config), [])

    def test_once_streams_english_and_ends(self):
        self.start("--once")
        self.assertEqual(self.process.wait(BUILD_LIMIT_S), 0, self.text())
        self.reader.join()
        self.expect_english()
        self.expect_quick_start()
        self.expect_nothing_left()

    def test_stays_up_until_interrupted(self):
        self.start()
        self.wait_for("until Ctrl-C")
        self.assertIn(f"curl http://127.0.0.1:{self.port}/v1/completions", self.text())
        self.assertEqual(len(processes_with(self.config)), 4, "guildhall up, a router and two workers")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/v1/models")
        response = connection.getresponse()
        self.assertEqual(response.status, 200)
        self.assertIn(b"guildhall-demo", response.read())
        connection.close()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        self.reader.join()
        self.expect_nothing_left()

    def test_taken_port_is_named_and_nothing_is_started(self):
        self.start()
        self.wait_for("until Ctrl-C")
        second = subprocess.run([SOURCE / "deploy/demo", "--once", "--port", str(self.port)], capture_output=True,
                                text=True, timeout=BUILD_LIMIT_S)
        self.assertEqual(second.returncode, 1, second.stdout)
        self.assertIn(f"port {self.port} is in use", second.stderr)
        self.assertIn("--port", second.stderr)

    def test_wrong_options_say_what_would_work(self):
        for options in (["--port", "http"], ["--port", "0"], ["--port", "65535"], ["--port"], ["--twice"]):
            with self.subTest(options):
                ended = subprocess.run([SOURCE / "deploy/demo", *options], capture_output=True, text=True, timeout=30)
                self.assertEqual(ended.returncode, 2)
                self.assertRegex(ended.stderr, r"--port")
        shown = subprocess.run([SOURCE / "deploy/demo", "--help"], capture_output=True, text=True, timeout=30)
        self.assertEqual(shown.returncode, 0)
        self.assertIn("--once", shown.stdout)


if __name__ == "__main__":
    unittest.main()
