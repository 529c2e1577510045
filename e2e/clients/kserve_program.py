"""A program with KServe's clients: `kserve_program.py rest|grpc PORT IMAGE` prints the responses as JSON.

A process of its own, for the generated code of KServe's and of Triton's clients cannot be loaded into the same one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import httpx
import numpy as np
from grpc.aio import AioRpcError
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig


class Program:
    def __init__(self, transport: str, port: str):
        self.over_rest = transport == "rest"
        if self.over_rest:
            self.client, self.address = InferenceRESTClient(RESTConfig(protocol="v2", retries=0)), [f"http://127.0.0.1:{port}"]
        else:
            self.client, self.address = InferenceGRPCClient(f"127.0.0.1:{port}"), []

    async def infer(self, model: str, binary: bool, **arrays: np.ndarray) -> InferResponse:
        tensors = []
        for name, array in arrays.items():
            datatype = "BYTES" if array.dtype == object else "FP32"
            tensors.append(InferInput(name, list(array.shape), datatype))
            tensors[-1].set_data_from_numpy(array, binary_data=binary)
        parameters = {"binary_data_output": binary} if self.over_rest else None
        payload = InferRequest(model, tensors, request_id="me", parameters=parameters)
        # Over REST the name is in the path, over gRPC in the message.
        return await self.client.infer(*self.address, payload, **({"model_name": model} if self.over_rest else {}))

    async def run(self, image_file: Path) -> dict[str, object]:
        numbers = np.float32([[0.1, -1.5, 3e38], [1 / 3, 2, 1e-45]])
        words = np.array(["zwei", "三", "four"], dtype=object)
        image_files = np.array([image_file.read_bytes()] * 2, dtype=object)
        in_binary, in_text = await self.infer("versioned", True, x=numbers / 10), await self.infer("versioned", False, x=numbers / 10)
        reported = {
            "ready": [
                await self.client.is_server_live(*self.address),
                await self.client.is_server_ready(*self.address),
                await self.client.is_model_ready(*self.address, "mnist"),
                await self.client.is_model_ready(*self.address, "nope"),
            ],
            "named": [in_binary.model_name, in_binary.id],
            "exact": [bool(np.array_equal(each.outputs[0].as_numpy(), numbers / 10 * 10)) for each in (in_binary, in_text)],
            "words": (await self.infer("numbered_words", True, word=words)).outputs[0].as_numpy().tolist(),
            "classes": (await self.infer("mnist", True, image=image_files)).outputs[0].as_numpy().argmax(axis=1).tolist(),
        }
        try:
            await self.infer("versioned", False, x=numbers[:, :2])
        except (httpx.HTTPStatusError, AioRpcError) as refused:
            reported["refused"] = refused.details() if isinstance(refused, AioRpcError) else refused.response.json()["error"]
        await self.client.close()
        return reported


async def main(transport: str, port: str, image_file: str) -> None:
    print(json.dumps(await Program(transport, port).run(Path(image_file))))


asyncio.run(main(*sys.argv[1:]))
