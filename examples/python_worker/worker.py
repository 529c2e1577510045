"""Serves a model that ONNX cannot express: the most frequent words of a text. Any number of these may run at the same time."""

import collections, json, os, re, threading, time  # noqa: E401

import redis

MODEL, GROUP, ME = "keywords", "workers", f"python-{os.urandom(8).hex()}"
QUEUE, MODELS = f"mlserve:{{jobs}}:queue:{MODEL}", "mlserve:{jobs}:models"
TEXT, WORDS = {"name": "text", "datatype": "BYTES", "shape": [1]}, {"name": "words", "datatype": "BYTES", "shape": [-1]}
db = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))

def predict(text: str) -> list[str]:
    words = re.findall(r"[^\W\d_]{4,}", text.lower())
    return [word for word, _ in collections.Counter(words).most_common(5)]

def result_of(request: bytes) -> str:
    words = predict(json.loads(request)["inputs"][0]["data"][0])
    return json.dumps({"model_name": MODEL, "outputs": [WORDS | {"shape": [len(words)], "data": words}]})

def process(entry: bytes, job: bytes, index: bytes) -> None:
    if begun := db.fcall("mlserve_begin", 1, QUEUE, entry, job, index):
        try:
            outcome = "+" + result_of(begun[0])
        except Exception as error:  # an error is the input's result and does not end the worker
            outcome = "-" + json.dumps({"status": 422, "detail": f"The input is not a text: {error!r}."})
        db.fcall("mlserve_finish", 1, QUEUE, entry, job, index, outcome)

def announce_and_heartbeat(in_flight: set[bytes]) -> None:
    while True:
        db.fcall("mlserve_announce", 1, MODELS, MODEL, json.dumps({"inputs": [TEXT], "outputs": [WORDS]}))
        db.fcall("mlserve_beat", 1, QUEUE, ME, *in_flight.copy())
        time.sleep(5)

if not db.exists(QUEUE) or all(group["name"] != GROUP.encode() for group in db.xinfo_groups(QUEUE)):
    db.xgroup_create(QUEUE, GROUP, 0, mkstream=True)
in_flight: set[bytes] = set()
threading.Thread(target=announce_and_heartbeat, args=(in_flight,), daemon=True).start()
while True:
    inputs = [db.fcall("mlserve_take_over", 1, QUEUE, ME, 30_000, 3, 1)]  # of crashed workers
    for _, entries in db.xreadgroup(GROUP, ME, {QUEUE: ">"}, count=1, block=1000) or []:
        inputs += [[entry, fields[b"job"], fields[b"index"]] for entry, fields in entries]
    for entry, job, index in filter(None, inputs):
        in_flight.add(entry)
        process(entry, job, index)
        in_flight.discard(entry)
