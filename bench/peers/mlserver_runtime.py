"""A runtime for ONNX models, which MLServer lacks, written as its documentation describes."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from network import Network


class Mnist(MLModel):
    async def load(self) -> bool:
        self.network = Network()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = NumpyCodec.decode_input(payload.inputs[0])
        outputs = [NumpyCodec.encode_output("probabilities", self.network.run(images))]
        return InferenceResponse(model_name=self.name, outputs=outputs)
