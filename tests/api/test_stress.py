"""The API under everything at once: whole answers and streams, clients that leave in the middle of anything, nonsense,
connections that are kept and requests that are sent ahead. Whoever asks properly is answered properly, and in the end
nothing runs, no page is used and no connection is left."""
import json
import random
import socket
import struct
import threading
import time
import unittest

from cluster import DEMO, Cluster
from test_observe import metrics

NUM_CLIENTS, SECONDS = 12, 8
PROMPTS = ["In the beginning", "And it came to pass", "Blessed are they", "Then said the king unto", "Hear, O Israel"]
MOST_TOKENS = 24
REFUSED = 429  # so many wait already: a proper answer


def http(method, path, body=None, request_id="", more=""):
    body = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    name = f"x-request-id: {request_id}\r\n" if request_id else ""
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n{name}{more}content-length: {len(body)}\r\n\r\n".encode() + body


class Connection:
    """One that sends any bytes, and reads answers in turn."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.socket.makefile("rb")

    def send(self, data):
        self.socket.sendall(data)

    def head(self):
        """Status and headers; nothing when the server has closed."""
        line = self.file.readline()
        if not line:
            return None, {}
        headers = {}
        while (field := self.file.readline().strip()):
            name, value = field.decode().split(": ", 1)
            headers[name.lower()] = value
        return int(line.split()[1]), headers

    def chunk(self):
        size = int(self.file.readline(), 16)
        data = self.file.read(size)
        self.file.readline()
        return data

    def reply(self):
        status, headers = self.head()
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        else:
            body = self.file.read(int(headers.get("content-length", 0)))
        return status, headers, body

    def close(self, reset=False):
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.file.close()
        self.socket.close()


class Client(threading.Thread):
    """Does one thing after another until the time is over; the first thing that is wrong ends it."""

    def __init__(self, cluster, expected, seed, end):
        super().__init__()
        self.port, self.expected, self.end = cluster.port, expected, end
        self.random = random.Random(seed)
        self.kept = None
        self.wrong, self.num_done = None, {}

    def run(self):
        things = [self.whole, self.whole, self.stream, self.stream, self.ahead, self.conversation, self.many,
                  self.leave_a_stream, self.leave_at_once, self.leave_in_a_body, self.ask_wrongly, self.talk_nonsense]
        try:
            while time.monotonic() < self.end:
                thing = self.random.choice(things)
                thing()
                self.num_done[thing.__name__] = self.num_done.get(thing.__name__, 0) + 1
        except Exception as wrong:  # noqa: BLE001 - the test tells it
            self.wrong = f"{thing.__name__}: {wrong!r}"
        finally:
            if self.kept:
                self.kept.close()

    # ---- what is asked

    def connection(self):
        if self.kept is None:
            self.kept = Connection(self.port)
        return self.kept

    def call(self, **more):
        prompt = self.random.choice(PROMPTS)
        return prompt, dict(prompt=prompt, max_tokens=self.random.randint(1, MOST_TOKENS), temperature=0, **more)

    def expect(self, holds, what):
        if not holds:
            raise AssertionError(what)

    def check_text(self, prompt, body, text, usage):
        self.expect(usage["completion_tokens"] == body["max_tokens"], f"{usage} of {body}")
        self.expect(text and self.expected[prompt].startswith(text), f"{text!r} of {body}")

    def check_whole(self, prompt, body, status, headers, data):
        if status == REFUSED:
            return self.expect(headers.get("x-should-retry") == "true" and headers.get("retry-after-ms"), headers)
        self.expect(status == 200, (status, data))
        reply = json.loads(data)
        for choice in reply["choices"]:
            self.check_text(prompt, body, choice["text"],
                            {"completion_tokens": reply["usage"]["completion_tokens"] // len(reply["choices"])})

    def check_stream(self, prompt, body, status, headers, data):
        if status == REFUSED:
            return
        self.expect(status == 200 and data.endswith(b"data: [DONE]\n\n"), (status, data[-200:]))
        events = [json.loads(e[6:]) for e in data.decode().split("\n\n") if e.startswith("data: {")]
        text = "".join(c["text"] for event in events for c in event["choices"])
        self.check_text(prompt, body, text, events[-1]["usage"])

    # ---- those who wait for their answer

    def whole(self):
        prompt, body = self.call()
        self.connection().send(http("POST", "/v1/completions", body))
        self.check_whole(prompt, body, *self.kept.reply())

    def many(self):
        prompt, body = self.call(n=self.random.randint(2, 3))
        self.connection().send(http("POST", "/v1/completions", body))
        self.check_whole(prompt, body, *self.kept.reply())

    def stream(self):
        prompt, body = self.call(stream=True, stream_options={"include_usage": True})
        self.connection().send(http("POST", "/v1/completions", body))
        self.check_stream(prompt, body, *self.kept.reply())

    def conversation(self):
        body = dict(messages=[{"role": "user", "content": "Speak"}], max_tokens=4, stream=self.random.random() < 0.5)
        self.connection().send(http("POST", "/v1/chat/completions", body))
        status, _, data = self.kept.reply()
        self.expect(status in (200, REFUSED) and (b'"assistant"' in data or status == REFUSED), (status, data))

    def ahead(self):
        """Requests sent before the ones ahead are answered; in pieces that end anywhere."""
        wanted, data = [], b""
        for i in range(self.random.randint(2, 5)):
            request_id, (prompt, body) = f"r{i}", self.call()
            kind = self.random.choice(["whole", "stream", "live", "wrong"])
            if kind == "stream":
                body.update(stream=True, stream_options={"include_usage": True})
            if kind == "wrong":
                body.update(temperature=9)
            data += http("GET", "/live", request_id=request_id) if kind == "live" else \
                http("POST", "/v1/completions", body, request_id)
            wanted.append((kind, request_id, prompt, body))
        while data:
            size = self.random.randint(1, len(data))
            self.connection().send(data[:size])
            data = data[size:]
        for kind, request_id, prompt, body in wanted:
            status, headers, got = self.kept.reply()
            self.expect(headers.get("x-request-id") == request_id, f"{headers} instead of {request_id}")
            if kind == "whole":
                self.check_whole(prompt, body, status, headers, got)
            elif kind == "stream":
                self.check_stream(prompt, body, status, headers, got)
            else:
                self.expect(status == (200 if kind == "live" else 400), (kind, status, got))

    # ---- those who leave

    def leave_a_stream(self):
        _, body = self.call(stream=True)
        body.update(max_tokens=900, ignore_eos=True, n=self.random.randint(1, 2))
        connection = Connection(self.port)
        connection.send(http("POST", "/v1/completions", body))
        status, _ = connection.head()
        self.expect(status in (200, REFUSED), status)
        if status == 200:
            for _ in range(self.random.randint(0, 5)):
                connection.chunk()
        connection.close(reset=self.random.random() < 0.5)

    def leave_at_once(self):
        _, body = self.call(stream=self.random.random() < 0.5)
        body.update(max_tokens=900, ignore_eos=True)
        connection = Connection(self.port)
        connection.send(http("POST", "/v1/completions", body))
        if self.random.random() < 0.3:
            connection.socket.shutdown(socket.SHUT_WR)
        connection.close(reset=self.random.random() < 0.5)

    def leave_in_a_body(self):
        whole = http("POST", "/v1/completions", self.call()[1])
        connection = Connection(self.port)
        connection.send(whole[:self.random.randint(1, len(whole) - 1)])
        connection.close(reset=self.random.random() < 0.5)

    # ---- those who ask what cannot be

    def ask_wrongly(self):
        path, body, status = self.random.choice([
            ("/v1/completions", b"{", 400), ("/v1/completions", dict(prompt="x", n=0), 400),
            ("/v1/completions", dict(prompt=[5] * 5000), 400), ("/v1/completions", dict(prompt="x", model="y"), 404),
            ("/v1/chat/completions", dict(messages=[]), 400), ("/nothing", {}, 404), ("/v1/models", {}, 405),
            ("/tokenize", {}, 400), ("/detokenize", dict(tokens=[-1]), 400)])
        self.connection().send(http("POST", path, body))
        got, _, data = self.kept.reply()
        error = json.loads(data)["error"]
        self.expect(got == status and set(error) == {"message", "type", "param", "code"} and error["code"], data)

    def talk_nonsense(self):
        connection = Connection(self.port)
        connection.send(self.random.choice([
            b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET\r\n\r\n", b"POST /tokenize HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"]))
        status, headers, data = connection.reply()
        self.expect(status == 400 and headers["connection"] == "close", (status, headers))
        self.expect(json.loads(data)["error"]["code"] == "bad_http", data)
        connection.close()


class Stress(unittest.TestCase):
    def test_all_at_once_leaves_nothing_behind(self):
        cluster = Cluster(DEMO, num_workers=2)
        text = cluster.config.read_text()
        cluster.config.write_text(text.replace(
            "  kv_cache: {memory: 64MiB}\n", "  kv_cache: {memory: 2MiB}\n  batching: {max_sequences: 6, max_waiting: 8}\n"))
        with cluster:
            expected = {prompt: cluster.complete(prompt=prompt, max_tokens=MOST_TOKENS, temperature=0)["choices"][0]["text"]
                        for prompt in PROMPTS}
            end = time.monotonic() + SECONDS
            clients = [Client(cluster, expected, seed, end) for seed in range(NUM_CLIENTS)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            self.assertEqual([client.wrong for client in clients if client.wrong], [])
            done = [sum(client.num_done.get(name, 0) for client in clients)
                    for name in ("whole", "stream", "ahead", "leave_a_stream", "ask_wrongly", "talk_nonsense")]
            self.assertGreater(min(done), 0, done)
            self.wait_for_nothing(cluster)
            for prompt in PROMPTS:
                again = cluster.complete(prompt=prompt, max_tokens=MOST_TOKENS, temperature=0)
                self.assertEqual(again["choices"][0]["text"], expected[prompt])

    def wait_for_nothing(self, cluster):
        nothing = {'guildhall_requests{state="running"}': 0, 'guildhall_requests{state="waiting"}': 0,
                   'guildhall_kv_pages{state="used"}': 0, 'guildhall_replica_outstanding_tokens{replica="r0"}': 0,
                   "guildhall_http_connections": 1}  # that which asks
        deadline = time.monotonic() + 60
        while True:
            told = metrics(cluster)
            left = {name: told[name] for name in nothing}
            if left == nothing:
                return
            self.assertLess(time.monotonic(), deadline, left)
            time.sleep(0.05)


if __name__ == "__main__":
    unittest.main()
