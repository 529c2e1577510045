"""BentoML: one route as it is, one that collects requests."""

import bentoml
import numpy
from network import Network


@bentoml.service(workers=1, traffic={"timeout": 30})
class Mnist:
    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api(route="/predict")
    def predict(self, image_arr: list) -> dict:
        return self.network.classify(image_arr)

    @bentoml.api(route="/predict_batched", batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict_batched(self, image_arr: numpy.ndarray) -> list:
        rows = self.network.run(image_arr.astype(numpy.float32))
        return [{"cls": int(row.argmax()), "value": float(row.max())} for row in rows]
