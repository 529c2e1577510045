"""The first MLServe's web process, from its description: SHA-256 of the pixels, Redis, else the model process.

Cached results are read as JSON here; the original evaluated them as Python."""

import hashlib
import json
import os

import numpy
import redis
import requests
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
cache = redis.Redis.from_url(os.environ["REDIS_URL"])
model = requests.Session()


class Body(BaseModel):
    image_arr: list


@app.get("/")
def home() -> str:
    return "Can curl web api!"


@app.post("/web_api")
def web_api(body: Body) -> dict:
    key = hashlib.sha256(numpy.array(body.image_arr).tobytes()).hexdigest()
    cached = cache.get(key)
    if cached is not None:
        return json.loads(cached)
    answer = model.post(f"{os.environ['MODEL_URL']}/predict_array", json={"image_arr": body.image_arr}).json()
    cache.set(key, json.dumps(answer))
    return answer
