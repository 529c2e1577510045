"""The first MLServe's model process, from its description: one route, one array, one answer."""

from fastapi import FastAPI
from network import Network
from pydantic import BaseModel

app = FastAPI()
network = Network()


class Body(BaseModel):
    image_arr: list


@app.get("/")
def home() -> str:
    return "Can curl model api!"


@app.post("/predict_array")
def predict_array(body: Body) -> dict:
    return network.classify(body.image_arr)
