"""web_api with a real Redis: what survives, what is believed, and what a dead or hung Redis costs."""

from __future__ import annotations

import hashlib
import json
import signal
import struct
import threading
import time
from typing import Callable

import pytest
import requests

from client import result_of, predict, assert_problem
from images import encode, new_image, seven
from services import Redis, Service, free_port, wait_until

# What a computed answer may take here, Redis or not, on a machine that is busy with other things.
TIMEOUT_S = 2.0

ANSWERS = "mlserve:answer:*"

Spawn = Callable[..., Service]


@pytest.fixture
def start_web(spawn: Spawn, model_api: Service, redis: Redis) -> Callable[..., Service]:
    """A web_api that is connected to the Redis."""

    def start(**settings: object) -> Service:
        web = spawn("web_api", MODEL_API_URL=model_api.url, REDIS_URL=redis.url, **settings)
        wait_until(lambda: degraded(web) == [], "Redis is found")
        return web

    return start


def degraded(web: Service) -> list[str]:
    """What it does without. It is ready all the same."""
    health = web.health()
    assert health.status_code == 200, health.text
    reported = health.json()
    assert reported["memory"] == {"kind": "near+redis", "redis": "unavailable" if reported["degraded"] else "ready"}
    return reported["degraded"]


def is_cached(web: Service, image: bytes) -> bool:
    return predict(web.url, image, Cache_Control="only-if-cached").status_code == 200


def key_of(redis: Redis, answer: dict) -> str:
    """Where the answer stands; answers are written behind their request."""
    key = f"mlserve:answer:{answer['model']}:{answer['key'].removeprefix('sha256:')}"
    wait_until(lambda: redis.execute("EXISTS", key) == "1", "the answer is in Redis")
    return key


# ---- Cache ----------------------------------------------------------------------------------------------------------


def test_answers_survive_a_restart_of_web_api(start_web: Callable[..., Service]):
    image = new_image()
    first = start_web()
    answer = result_of(predict(first.url, image))
    assert first.terminate() == 0
    second = start_web()
    again = predict(second.url, image)
    assert result_of(again) | {"timing_ms": 0} == answer | {"cached": True, "timing_ms": 0}
    assert (again.headers["Cache-Status"], second.count("web_api_inferences_total")) == ("mlserve; hit", 0)
    assert second.count("web_api_answers_total", outcome="redis") == 1


def test_what_is_stored_are_the_outputs_and_every_key_has_a_time_to_live(
    start_web: Callable[..., Service], redis: Redis
):
    web = start_web(CACHE_TTL_S=1000)
    answers = [result_of(predict(web.url, new_image())) for _ in range(5)]
    requests.post(f"{web.url}/predict/leukemia", files={"image": encode(seven())}, timeout=30)
    key, form = parts(redis.value(key_of(redis, answers[0])))
    stored_at, model = form_head(form)
    assert ("sha256:" + key.hex(), model) == (answers[0]["key"], "mnist")
    assert time.time() - stored_at < 60
    values = [score["value"] for score in answers[0]["probabilities"]]
    assert form.endswith(PROBABILITIES.pack(1, 10, 40, *values))
    wait_until(lambda: len(redis.keys(ANSWERS)) == 6, "all six are stored")
    for key in redis.keys(ANSWERS):
        assert key.startswith(("mlserve:answer:mnist:", "mlserve:answer:leukemia:"))
        assert 900 < int(redis.execute("TTL", key)) <= 1000
        assert redis.execute("TYPE", key) == "string"


def test_an_answer_expires(start_web: Callable[..., Service], redis: Redis):
    web = start_web(CACHE_TTL_S=1)
    image = new_image()
    result_of(predict(web.url, image))
    wait_until(lambda: not is_cached(web, image), "the local cache has dropped it")
    wait_until(lambda: redis.keys(ANSWERS) == [], "Redis has dropped it")
    assert not result_of(predict(web.url, image))["cached"]


def test_two_web_apis_share_their_cache_and_delete_together(start_web: Callable[..., Service], redis: Redis):
    left, right = start_web(), start_web()
    image = new_image()
    key_of(redis, result_of(predict(left.url, image)))
    assert result_of(predict(right.url, image))["cached"]
    assert is_cached(right, image)

    assert result_of(requests.delete(f"{left.url}/cache/mnist", timeout=10)) == {"model": "mnist", "forgotten": 1}
    assert redis.keys(ANSWERS) == []
    wait_until(lambda: not is_cached(right, image), "the other one has heard of it")
    assert not result_of(predict(right.url, image))["cached"]


# ---- Not believing --------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(start_web: Callable[..., Service], redis: Redis) -> tuple[bytes, str, bytes]:
    """An image whose result is only in Redis, the result's key, and its value."""
    web = start_web()
    image = new_image()
    key = key_of(redis, result_of(predict(web.url, image)))
    web.terminate()
    return image, key, redis.value(key)


# The end of mnist's answer in its stored form: the shape of its one output, the output's length in bytes, the output.
PROBABILITIES = struct.Struct("<QQQ10f")


def parts(entry: bytes) -> tuple[bytes, bytes]:
    """The key and the answer's form: magic, format, key, form, checksum."""
    assert entry[:5] == b"MLSA\x02"
    return entry[5:37], entry[37:-16]


def form_head(form: bytes) -> tuple[int, str]:
    """When it was stored, and the model's name; three times in ms stand between them."""
    stored_at, length = struct.unpack_from("<Q24xH", form)
    return stored_at, form[34 : 34 + length].decode()


def sealed(key: bytes, form: bytes) -> bytes:
    body = b"MLSA\x02" + key + form
    return body + hashlib.sha256(body).digest()[:16]


def other_schema(entry: bytes) -> bytes:
    key, _ = parts(entry)
    return json.dumps({"key": key.hex(), "cls": 3, "value": 1.0}).encode()


def another_answer(entry: bytes) -> bytes:
    return sealed(bytes(32), parts(entry)[1])


def longer_than_its_bytes(entry: bytes) -> bytes:
    key, form = parts(entry)
    _, _, _, *values = PROBABILITIES.unpack(form[-PROBABILITIES.size :])
    return sealed(key, form[: -PROBABILITIES.size] + PROBABILITIES.pack(1, 1 << 40, 1 << 42, *values))


@pytest.mark.parametrize(
    "write",
    [
        lambda entry: b"garbage \x00\xff",
        lambda entry: b"",
        lambda entry: b"{}",
        lambda entry: entry[:-20],
        lambda entry: entry[:40] + bytes([entry[40] ^ 1]) + entry[41:],
        lambda entry: b"__import__('os').abort()",
        other_schema,
        another_answer,
        longer_than_its_bytes,
    ],
    ids=["bytes", "nothing", "an empty object", "a cut entry", "a flipped bit", "code", "another schema"]
    + ["the answer to another request", "an answer of terabytes"],
)
def test_a_value_that_is_no_answer_to_its_key_is_computed_anew_and_put_right(
    start_web: Callable[..., Service], redis: Redis, stored: tuple[bytes, str, bytes], write: Callable[[bytes], bytes]
):
    image, key, entry = stored
    redis.execute("SET", key, stdin=write(entry))
    untrue = redis.value(key)
    web = start_web()
    answer = result_of(predict(web.url, image))
    assert (answer["label"], answer["cached"]) == ("7", False)
    # For Redis, an empty string equals a missing key.
    assert web.count("web_api_redis_errors_total", kind="corrupt") == (0 if untrue == b"" else 1)
    wait_until(lambda: redis.value(key) != untrue, "it is put right")
    (kept, form), (true_key, true_form) = parts(redis.value(key)), parts(entry)
    assert (kept, form[-PROBABILITIES.size :]) == (true_key, true_form[-PROBABILITIES.size :])
    assert degraded(web) == []


def test_a_value_of_another_type_is_computed_anew(
    start_web: Callable[..., Service], redis: Redis, stored: tuple[bytes, str, bytes]
):
    image, key, _ = stored
    redis.execute("DEL", key)
    redis.execute("RPUSH", key, "a", "b")
    web = start_web()
    assert result_of(predict(web.url, image))["label"] == "7"
    assert result_of(predict(web.url, image))["cached"]


# ---- Without Redis --------------------------------------------------------------------------------------------------


class Load:
    """Clients that send requests without a pause, every second one with a new input."""

    def __init__(self, web: Service, clients: int = 4):
        self.web, self.failures, self.seconds, self.over = web, [], [], threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def run(self) -> None:
        known = new_image()
        while not self.over.is_set():
            for image in (known, new_image()):
                begun = time.monotonic()
                try:
                    if result_of(predict(self.web.url, image))["label"] != "7":
                        self.failures.append("a wrong answer")
                except (AssertionError, requests.RequestException) as error:
                    self.failures.append(repr(error))
                self.seconds.append(time.monotonic() - begun)

    def wait_for_more(self, answers: int = 50) -> None:
        wanted = len(self.seconds) + answers
        wait_until(lambda: len(self.seconds) >= wanted, f"{answers} more answers", 30)


def test_redis_killed_and_restarted_under_load_costs_no_request(start_web: Callable[..., Service], redis: Redis):
    web = start_web()
    with Load(web) as load:
        for _ in range(3):
            load.wait_for_more()
            redis.kill()
            wait_until(lambda: degraded(web) == ["redis"], "it is reported")
            load.wait_for_more()
            redis.start()
            wait_until(lambda: degraded(web) == [], "it is back")
    assert load.failures == []
    assert max(load.seconds) < TIMEOUT_S
    assert redis.keys("mlserve:answer:mnist:*")


def test_a_hung_redis_costs_one_deadline_and_not_one_a_request(start_web: Callable[..., Service], redis: Redis):
    web = start_web(REDIS_TIMEOUT_MS=200)
    redis.signal(signal.SIGSTOP)
    with Load(web) as load:
        wait_until(lambda: degraded(web) == ["redis"], "it is reported")
        load.wait_for_more(20)
        settled = len(load.seconds)
        load.wait_for_more(100)
    assert load.failures == []
    assert max(load.seconds) < TIMEOUT_S
    after = sorted(load.seconds[settled:])
    assert after[len(after) // 2] < 0.1, "the breaker spares requests the deadline"
    redis.signal(signal.SIGCONT)
    wait_until(lambda: degraded(web) == [], "it is back")
    key_of(redis, result_of(predict(web.url, new_image())))


def test_redis_may_come_after_web_api(spawn: Spawn, model_api: Service, redis: Redis):
    redis.kill()
    web = spawn("web_api", MODEL_API_URL=model_api.url, REDIS_URL=redis.url)
    assert degraded(web) == ["redis"]
    assert result_of(predict(web.url, new_image()))["label"] == "7"
    redis.start()
    wait_until(lambda: degraded(web) == [], "it is found", 3)
    key_of(redis, result_of(predict(web.url, new_image())))


def test_without_redis_nothing_can_be_deleted_permanently_and_that_is_reported(spawn: Spawn, model_api: Service):
    web = spawn("web_api", MODEL_API_URL=model_api.url, REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    reported = "Redis does not respond, so some cached results may remain; try again shortly."
    assert_problem(requests.delete(f"{web.url}/cache/mnist", timeout=10), 503, reported)


def test_a_wrong_password_is_as_good_as_no_redis_and_is_never_shown(spawn: Spawn, model_api: Service, redis: Redis):
    url = redis.url.replace("//", "//mlserve:wrong-secret@")
    web = spawn("web_api", MODEL_API_URL=model_api.url, REDIS_URL=url, LOG_LEVEL="debug")
    answers = [predict(web.url, new_image()) for _ in range(5)]
    assert {result_of(answer)["label"] for answer in answers} == {"7"}
    wait_until(lambda: "auth" in redis.execute("ACL", "LOG"), "Redis has refused it")
    assert degraded(web) == ["redis"]
    assert "wrong-secret" not in web.log() + web.health().text
