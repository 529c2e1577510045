"""Submits a job without HTTP and waits for its results: producer.py MODEL TEXT…"""

import json
import os
import secrets
import sys

import redis

JOBS, DAY_MS, MAX_QUEUE_LENGTH = "mlserve:{jobs}", 24 * 3600 * 1000, 100_000
db = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"), decode_responses=True)


def submit(model: str, requests: list[dict]) -> str:
    job = secrets.token_hex(16)
    inputs = [part for index, request in enumerate(requests) for part in (index, json.dumps(request))]
    db.fcall("mlserve_upload", 1, f"{JOBS}:inputs:{job}", *inputs)
    names, fields = json.dumps([""] * len(requests)), json.dumps({"kind": "v2"})
    arguments = [model, len(requests), DAY_MS, MAX_QUEUE_LENGTH, "", "", names, fields]
    job = db.fcall("mlserve_submit", 1, f"{JOBS}:job:{job}", *arguments)
    while db.fcall("mlserve_fill", 1, f"{JOBS}:job:{job}"):
        pass
    return job


def results(job: str):
    """Yields index and result or error of each input as it ends, including those that ended before the call."""
    last, status = "0", ""
    while status not in ("succeeded", "failed", "cancelled"):
        for _, events in db.xread({f"{JOBS}:events:{job}": last}, block=1000) or []:
            for last, event in events:
                status = event.get("status", status)
                if "index" in event:
                    yield int(event["index"]), json.loads(db.hget(f"{JOBS}:results:{job}", event["index"])[1:])


if __name__ == "__main__":
    model, *texts = sys.argv[1:]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1]}
    for index, result in results(submit(model, [{"inputs": [tensor | {"data": [text]}]} for text in texts])):
        print(index, result["outputs"][0]["data"] if "outputs" in result else result["detail"])
