"""The openai package and raw HTTP against the demo checkpoint, alone and in a crowd, and with a worker killed."""
import asyncio
import concurrent.futures
import http.client
import json
import os
import signal
import time
import unittest

import openai

from cluster import DEMO, GOLDEN, Cluster

PROMPT = "In the beginning"


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(DEMO, num_workers=2)
        cls.cluster.__enter__()
        cls.client = openai.OpenAI(base_url=cls.cluster.url + "/v1", api_key="none", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.cluster.__exit__(None, None, None)

    def test_lists_its_model(self):
        models = self.client.models.list().data
        self.assertEqual([m.id for m in models], ["test-model"])

    def test_streams_what_it_answers_whole(self):
        options = dict(model="test-model", prompt=PROMPT, max_tokens=40, temperature=0.8, seed=3)
        whole = self.client.completions.create(**options)
        parts = list(self.client.completions.create(stream=True, stream_options={"include_usage": True}, **options))
        self.assertEqual("".join(c.text for p in parts for c in p.choices), whole.choices[0].text)
        self.assertEqual(parts[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertGreater(len(whole.choices[0].text.split()), 5)

    def test_converses_whole_and_in_a_stream(self):
        options = dict(model="test-model", max_tokens=20, temperature=0.8, seed=3,
                       messages=[{"role": "user", "content": [{"type": "text", "text": "Who was the king?"}]}])
        whole = self.client.chat.completions.create(**options, logprobs=True, top_logprobs=2)
        parts = list(self.client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **options))
        choice = whole.choices[0]
        self.assertEqual(choice.message.role, "assistant")
        self.assertEqual(len(choice.logprobs.content), whole.usage.completion_tokens)
        self.assertEqual("".join(c.delta.content or "" for p in parts for c in p.choices), choice.message.content)
        self.assertEqual(parts[0].choices[0].delta.role, "assistant")
        self.assertEqual(parts[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertGreater(len(choice.message.content.split()), 3)
        with self.client.chat.completions.stream(**options) as stream:  # the package's helper checks the stream's form
            deltas = [event.delta for event in stream if event.type == "content.delta"]
        self.assertEqual("".join(deltas), choice.message.content)

    def test_a_conversation_is_the_completion_of_its_template(self):
        messages = [{"role": "user", "content": "Who was the king?"}]
        prompt = self.cluster.post("/apply-template", {"messages": messages})[1]["prompt"]
        self.assertIn("Who was the king?", prompt)
        ids = self.cluster.post("/tokenize", {"messages": messages})[1]["tokens"]
        text = self.cluster.complete(prompt=ids, max_tokens=12, temperature=0)["choices"][0]["text"]
        reply = self.client.chat.completions.create(model="test-model", messages=messages, max_tokens=12, temperature=0)
        self.assertEqual(reply.choices[0].message.content, text)

    def test_tools_are_refused_by_name(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.client.chat.completions.create(model="test-model", messages=[{"role": "user", "content": "x"}],
                                                tools=[{"type": "function", "function": {"name": "f"}}])
        self.assertEqual(refused.exception.param, "tools")

    def test_converses_asynchronously(self):
        async def talk():
            async with openai.AsyncOpenAI(base_url=self.cluster.url + "/v1", api_key="none", max_retries=0) as client:
                replies = await asyncio.gather(*(client.chat.completions.create(
                    model="test-model", messages=[{"role": "user", "content": "Speak"}], max_tokens=10, seed=seed)
                    for seed in range(4)))
                return [r.choices[0].message.content for r in replies]

        self.assertEqual(len(asyncio.run(talk())), 4)

    def test_streams_asynchronously(self):
        messages = [{"role": "user", "content": "Speak"}]

        async def talk(client, seed):
            whole = await client.chat.completions.create(model="test-model", messages=messages, max_tokens=16, seed=seed)
            stream = await client.chat.completions.create(model="test-model", messages=messages, max_tokens=16, seed=seed,
                                                          stream=True, stream_options={"include_usage": True})
            parts = [part async for part in stream]
            async with client.chat.completions.stream(model="test-model", messages=messages, max_tokens=16,
                                                      seed=seed) as helper:
                helped = "".join([event.delta async for event in helper if event.type == "content.delta"])
            text = "".join(c.delta.content or "" for part in parts for c in part.choices)
            return whole.choices[0], whole.usage, text, parts[-1].usage, helped

        async def all_of_them():
            async with openai.AsyncOpenAI(base_url=self.cluster.url + "/v1", api_key="none", max_retries=0) as client:
                return await asyncio.gather(*(talk(client, seed) for seed in range(6)))

        for whole, usage, text, streamed_usage, helped in asyncio.run(all_of_them()):
            self.assertEqual(text, whole.message.content)
            self.assertEqual(helped, whole.message.content)
            self.assertEqual(streamed_usage.completion_tokens, usage.completion_tokens)

    def test_a_stream_left_in_the_middle_disturbs_nobody(self):
        with self.client.completions.create(model="test-model", prompt=PROMPT, max_tokens=900, stream=True,
                                            extra_body={"ignore_eos": True}) as stream:
            next(iter(stream))
        self.assertEqual(len(self.client.completions.create(model="test-model", prompt=PROMPT, max_tokens=3).choices), 1)

    def test_errors_have_their_class_code_and_request(self):
        for error, code, param, options in [
            (openai.NotFoundError, "model_not_found", "model", dict(model="other")),
            (openai.BadRequestError, "context_length_exceeded", "max_tokens", dict(max_tokens=5000)),
            (openai.BadRequestError, "invalid_value", "temperature", dict(temperature=7)),
            (openai.BadRequestError, "unsupported_parameter", "suffix", dict(suffix="x")),
        ]:
            with self.subTest(code=code), self.assertRaises(error) as raised:
                self.client.completions.create(**{"model": "test-model", "prompt": "x", **options},
                                               extra_headers={"x-request-id": f"mine-{code}"})
            self.assertEqual((raised.exception.code, raised.exception.param), (code, param))
            self.assertEqual(raised.exception.request_id, f"mine-{code}")
            self.assertTrue(raised.exception.type)

    def test_several_prompts_and_choices_are_numbered_in_order(self):
        reply = self.client.completions.create(model="test-model", prompt=[PROMPT, "And the king"], n=2, max_tokens=5)
        self.assertEqual([c.index for c in reply.choices], [0, 1, 2, 3])

    def test_ids_and_text_are_the_same_prompt(self):
        ids = self.cluster.post("/tokenize", {"prompt": PROMPT})[1]["tokens"]
        text = self.cluster.post("/detokenize", {"tokens": ids})[1]
        self.assertIn(PROMPT, text.get("prompt", text.get("text", "")))
        by_text = self.cluster.complete(prompt=PROMPT, max_tokens=8, temperature=0)
        by_ids = self.cluster.complete(prompt=ids, max_tokens=8, temperature=0)
        self.assertEqual(by_text["choices"][0]["text"], by_ids["choices"][0]["text"])

    def test_a_stop_string_ends_the_text_before_it(self):
        free = self.cluster.complete(prompt=PROMPT, max_tokens=60, temperature=0)["choices"][0]["text"]
        word = free.split()[6]
        stopped = self.cluster.complete(prompt=PROMPT, max_tokens=60, temperature=0, stop=[word])["choices"][0]
        self.assertEqual(stopped["finish_reason"], "stop")
        self.assertEqual(stopped["text"], free[: free.index(word)])

    def test_fields_of_other_servers_go_through_the_openai_package(self):
        more = dict(min_p=0.05, repetition_penalty=1.1, top_k=40, ignore_eos=True, min_tokens=3, return_token_ids=True,
                    prompt_logprobs=1)
        common = dict(model="test-model", max_tokens=12, seed=4, presence_penalty=0.5, frequency_penalty=0.25,
                      logit_bias={"5": -100}, stop=["\u1234"], user="me", extra_body=more)
        text = self.client.completions.create(prompt=PROMPT, best_of=2, **common).choices[0]
        self.assertEqual(len(text.token_ids), 12)
        self.assertEqual(len(text.prompt_logprobs), len(text.prompt_token_ids))
        self.assertNotIn(5, text.token_ids)
        talk = self.client.chat.completions.create(messages=[{"role": "user", "content": "Speak"}], **common)
        self.assertEqual(len(talk.choices[0].token_ids), 12)
        self.assertEqual(len(talk.prompt_logprobs), talk.usage.prompt_tokens)

    def test_routed_experts_are_those_of_each_token_whole_and_in_a_stream(self):
        options = dict(model="test-model", prompt="And the servant said unto his master, what shall I do? " * 3, temperature=0,
                       max_tokens=9)
        salt = dict(routed_experts=True, cache_salt="experts")
        first = self.client.completions.create(**options, echo=True, extra_body=salt)
        again = self.client.completions.create(**options, echo=True, extra_body=salt)
        scored = self.client.completions.create(**options, extra_body=dict(salt, prompt_logprobs=0))
        choice = first.choices[0]
        self.assertEqual(len(choice.routed_experts), 9)
        self.assertEqual(len(choice.prompt_routed_experts), first.usage.prompt_tokens)
        self.assertEqual(choice.prompt_routed_experts[-1], choice.routed_experts[0])
        for token in choice.routed_experts + choice.prompt_routed_experts:
            self.assertEqual([len(set(layer)) for layer in token], [2, 2, 2])
        num_cached = again.usage.prompt_tokens_details.cached_tokens
        self.assertGreater(num_cached, 0)
        self.assertEqual(again.choices[0].prompt_routed_experts,
                         [None] * num_cached + choice.prompt_routed_experts[num_cached:])
        self.assertEqual(again.choices[0].routed_experts, choice.routed_experts)
        self.assertEqual(scored.choices[0].prompt_routed_experts, choice.prompt_routed_experts)
        pieces = [c for part in self.client.completions.create(stream=True, echo=True, **options, extra_body=dict(
            salt, cache_salt="streamed")) for c in part.choices]
        self.assertEqual([token for c in pieces for token in c.routed_experts], choice.routed_experts)
        self.assertEqual(pieces[0].prompt_routed_experts, choice.prompt_routed_experts)
        self.assertEqual("".join(c.text for c in pieces), choice.text)

    def test_allowed_tokens_are_all_that_comes(self):
        allowed = self.cluster.post("/tokenize", {"prompt": " and the", "add_special_tokens": False})[1]["tokens"]
        choice = self.client.completions.create(
            model="test-model", prompt=PROMPT, max_tokens=20,
            extra_body=dict(allowed_token_ids=allowed, return_token_ids=True)).choices[0]
        self.assertEqual(len(choice.token_ids), 20)
        self.assertLessEqual(set(choice.token_ids), set(allowed))

    def test_the_best_of_several_is_the_likeliest_per_token(self):
        options = dict(model="test-model", prompt=PROMPT, max_tokens=8, temperature=1, seed=6, logprobs=0,
                       extra_body={"ignore_eos": True})
        mean = lambda choice: sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)
        drawn = self.client.completions.create(n=4, **options).choices
        best = self.client.completions.create(n=1, best_of=4, **options).choices
        self.assertEqual(best[0].text, max(drawn, key=mean).text)

    def test_out_of_range_values_are_refused_by_name(self):
        for fields in [dict(min_p=2), dict(repetition_penalty=0), dict(logit_bias={"5": 101}), dict(min_tokens=99),
                       dict(allowed_token_ids=[]), dict(prompt_logprobs=-1), dict(stop_token_ids=list(range(65)))]:
            with self.subTest(fields=str(fields)), self.assertRaises(openai.BadRequestError) as refused:
                self.client.completions.create(model="test-model", prompt=PROMPT, max_tokens=4, extra_body=fields)
            self.assertEqual(refused.exception.param, list(fields)[0])

    def test_32_streams_of_200_tokens_end_without_an_error(self):
        async def one(client, seed):
            stream = await client.completions.create(model="test-model", prompt=PROMPT, max_tokens=200, seed=seed,
                                                     stream=True, extra_body={"ignore_eos": True})
            reasons = [c.finish_reason async for part in stream for c in part.choices]
            return reasons[-1]

        async def all_of_them():
            async with openai.AsyncOpenAI(base_url=self.cluster.url + "/v1", api_key="none", max_retries=0,
                                          timeout=240) as client:
                return await asyncio.gather(*(one(client, seed) for seed in range(32)))

        self.assertEqual(asyncio.run(all_of_them()), ["length"] * 32)

    def test_the_crowd_changes_no_bit(self):
        body = dict(prompt=PROMPT, max_tokens=40, temperature=0.9, seed=11, logprobs=2, min_p=0.02, repetition_penalty=1.2,
                    frequency_penalty=0.3, logit_bias={"9": 2})
        alone = self.cluster.complete(**body)["choices"][0]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            others = [pool.submit(self.cluster.complete, prompt=f"{PROMPT} {i}", max_tokens=60, seed=i) for i in range(15)]
            crowded = pool.submit(self.cluster.complete, **body).result()["choices"][0]
            for other in others:
                other.result()
        self.assertEqual(json.dumps(crowded), json.dumps(alone))

    def test_a_client_that_leaves_frees_its_place(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.cluster.port, timeout=30)
        connection.request("POST", "/v1/completions", json.dumps(
            dict(prompt=PROMPT, max_tokens=900, ignore_eos=True, stream=True)))
        connection.getresponse().read(64)
        connection.close()
        self.assertLess(self.timed(prompt=PROMPT, max_tokens=4), 20)

    def timed(self, **body):
        begin = time.monotonic()
        self.cluster.complete(**body)
        return time.monotonic() - begin

    def test_bad_requests_are_told_what_would_work(self):
        for body, status, word in [
            ("{", 400, "JSON"),
            (dict(prompt=[5000000], max_tokens=1), 400, "vocab"),
            (dict(prompt="x", max_tokens=-1), 400, "max_tokens"),
            (dict(prompt="x", temperature=9), 400, "temperature"),
            (dict(prompt="x", model="other"), 404, "test-model"),
            (dict(prompt=[5] * 5000), 400, "1024"),
        ]:
            with self.subTest(body=str(body)[:60]):
                got, reply = self.cluster.post("/v1/completions", body)
                self.assertEqual(got, status, reply)
                self.assertIn(word, reply["error"]["message"])
                self.assertIn("type", reply["error"])
        self.assertEqual(self.cluster.get("/health")[0], 200)

    def test_a_huge_body_is_refused_and_others_go_on(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.cluster.port, timeout=30)
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("content-length", str(100 << 20))
        connection.endheaders()
        try:
            for _ in range(100):
                connection.send(b" " * (1 << 20))
        except OSError:
            pass  # the server stopped reading
        self.assertEqual(connection.getresponse().status, 413)
        connection.close()
        self.cluster.complete(prompt=PROMPT, max_tokens=2)

    def test_killed_worker_comes_back_and_the_text_is_the_same(self):
        options = dict(model="test-model", prompt=PROMPT, max_tokens=900, temperature=0.7, seed=5,
                       extra_body={"ignore_eos": True})
        undisturbed = self.client.completions.create(**options).choices[0].text
        with self.client.completions.create(stream=True, **options) as stream:
            texts = [next(iter(stream)).choices[0].text]  # the request is under way, and far from its end
            os.kill(self.cluster.worker_pid("w0"), signal.SIGKILL)
            texts += [choice.text for part in stream for choice in part.choices]
        self.assertEqual("".join(texts), undisturbed)
        self.assertIn("worker_lost", self.cluster.output())


class WhileAWorkerIsAway(unittest.TestCase):
    def test_requests_wait_for_it(self):
        body = dict(prompt=PROMPT, max_tokens=8, temperature=0)
        # Repaired, the other worker would have its experts at once.
        with Cluster(DEMO, num_workers=2, extra="balance: {repair: false}\n") as cluster:
            expected = cluster.complete(**body)["choices"]
            worker = cluster.worker_pid("w1")
            os.kill(worker, signal.SIGSTOP)
            try:
                deadline = time.monotonic() + 60
                while cluster.get("/health")[0] == 200:
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.05)
                with concurrent.futures.ThreadPoolExecutor(8) as pool:
                    replies = [pool.submit(cluster.complete, **body) for _ in range(8)]
                    self.assertEqual(concurrent.futures.wait(replies, timeout=1).done, set())
                    os.kill(worker, signal.SIGCONT)
                    for reply in replies:
                        self.assertEqual(reply.result()["choices"], expected)
            finally:
                os.kill(worker, signal.SIGCONT)


class Starting(unittest.TestCase):
    def test_a_client_that_comes_while_the_model_loads_tries_again(self):
        cluster = Cluster(GOLDEN / "qwen3_moe_f32", num_workers=1, kind="loopback").start()
        try:
            with openai.OpenAI(base_url=cluster.url + "/v1", api_key="none", max_retries=60) as client:
                reply = client.completions.create(model="test-model", prompt=[5, 9, 2], max_tokens=2)
            self.assertEqual(reply.usage.completion_tokens, 2)
        finally:
            cluster.stop()


class WithPages(unittest.TestCase):
    def test_scripts_of_listed_pages_may_use_it(self):
        cluster = Cluster(GOLDEN / "qwen3_moe_f32", num_workers=1, kind="loopback")
        text = cluster.config.read_text()
        cluster.config.write_text(text.replace("http: {", "http: {cors_origins: ['https://chat.example.org'], "))
        with cluster:
            connection = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=30)
            for origin, status, allowed in [("https://chat.example.org", 204, "https://chat.example.org"),
                                            ("https://evil.example.org", 403, None)]:
                connection.request("OPTIONS", "/v1/chat/completions", headers={
                    "origin": origin, "access-control-request-method": "POST",
                    "access-control-request-headers": "authorization, content-type, x-stainless-os"})
                reply = connection.getresponse()
                reply.read()
                self.assertEqual((reply.status, reply.getheader("access-control-allow-origin")), (status, allowed))
                connection.request("POST", "/v1/completions", json.dumps(dict(prompt=[5], max_tokens=1, stream=True)),
                                   {"origin": origin})
                reply = connection.getresponse()
                reply.read()
                self.assertEqual((reply.status, reply.getheader("access-control-allow-origin")), (200, allowed))
            connection.close()


class WithKeys(unittest.TestCase):
    def test_a_key_is_needed_and_no_other_will_do(self):
        cluster = Cluster(GOLDEN / "qwen3_moe_f32", num_workers=1, kind="loopback")
        (cluster.folder / "keys.txt").write_text("search sk-search-0123456789\n")
        text = cluster.config.read_text()
        cluster.config.write_text(text.replace("http: {", "http: {api_keys_file: keys.txt, "))
        with cluster:
            options = dict(model="test-model", prompt=[5, 9, 2], max_tokens=2)
            with openai.OpenAI(base_url=cluster.url + "/v1", api_key="sk-search-0123456789", max_retries=0) as client:
                self.assertEqual(client.completions.create(**options).usage.completion_tokens, 2)
            with openai.OpenAI(base_url=cluster.url + "/v1", api_key="sk-other-9876543210", max_retries=0) as client:
                with self.assertRaises(openai.AuthenticationError) as refused:
                    client.completions.create(**options)
            self.assertEqual(refused.exception.code, "invalid_api_key")


if __name__ == "__main__":
    unittest.main()
