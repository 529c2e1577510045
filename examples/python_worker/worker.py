"""Serves a model that ONNX cannot express: the most frequent words of a text. Any number of these may run at the same time."""

import collections
import json
import os
import re
import threading

import redis

MODEL, GROUP, ME = "keywords", "workers", f"python-{os.getpid()}-{os.urandom(4).hex()}"
QUEUE, MODELS = f"mlserve:{{jobs}}:queue:{MODEL}", "mlserve:{jobs}:models"
TEXT, WORDS = {"name": "text", "datatype": "BYTES", "shape": [1]}, {"name": "words", "datatype": "BYTES", "shape": [-1]}
db = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))


def predict(text: str) -> list[str]:
    words = re.findall(r"[^\W\d_]{4,}", text.lower())
    return [word for word, _ in collections.Counter(words).most_common(5)]


def answer(request: bytes) -> str:
    text = json.loads(request)["inputs"][0]["data"][0]
    words = predict(text)
    return json.dumps({"model_name": MODEL, "outputs": [WORDS | {"shape": [len(words)], "data": words}]})


def say_every_few_seconds(entries: set[str]) -> None:
    while True:
        db.fcall("mlserve_announce", 1, MODELS, MODEL, json.dumps({"inputs": [TEXT], "outputs": [WORDS]}))
        db.fcall("mlserve_beat", 1, QUEUE, ME, *entries.copy())
        threading.Event().wait(5)


def work_on(entry: str, job: str, index: str) -> None:
    if begun := db.fcall("mlserve_begin", 1, QUEUE, entry, job, index):
        try:
            outcome = "+" + answer(begun[0])
        except Exception as error:  # whatever is wrong is this input's result, and no reason to die
            outcome = "-" + json.dumps({"status": 422, "detail": f"no text: {error!r}"})
        db.fcall("mlserve_finish", 1, QUEUE, entry, job, index, outcome)


if __name__ == "__main__":
    in_hand: set[str] = set()
    if not db.exists(QUEUE) or all(group["name"] != GROUP.encode() for group in db.xinfo_groups(QUEUE)):
        db.xgroup_create(QUEUE, GROUP, 0, mkstream=True)
    threading.Thread(target=say_every_few_seconds, args=(in_hand,), daemon=True).start()
    while True:
        left = db.fcall("mlserve_take_over", 1, QUEUE, ME, 30_000, 3, 1)
        taken = [left[:3]] if left else [
            (entry, fields[b"job"], fields[b"index"])
            for _, entries in db.xreadgroup(GROUP, ME, {QUEUE: ">"}, count=1, block=1000) or []
            for entry, fields in entries
        ]
        for entry, job, index in taken:
            in_hand.add(entry)
            work_on(entry, job, index)
            in_hand.discard(entry)
