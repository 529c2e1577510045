"""LitServe: BATCH above 1 collects requests."""

import os

import litserve
import numpy
from network import Network

BATCH = int(os.environ.get("BATCH", "1"))


class Mnist(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.network = Network()

    def decode_request(self, request: dict) -> numpy.ndarray:
        return numpy.asarray(request["image_arr"], dtype=numpy.float32).reshape(28, 28, 1)

    def batch(self, inputs: list) -> numpy.ndarray:
        return numpy.stack(inputs)

    def predict(self, images: numpy.ndarray) -> numpy.ndarray:
        return self.network.run(images) if BATCH > 1 else self.network.run(images[None])[0]

    def unbatch(self, output: numpy.ndarray) -> list:
        return list(output)

    def encode_response(self, output: numpy.ndarray) -> dict:
        best = int(output.argmax())
        return {"cls": best, "value": float(output[best])}


if __name__ == "__main__":
    api = Mnist(max_batch_size=BATCH, batch_timeout=0.001 if BATCH > 1 else 0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )
