"""Inputs for Triton's clients. The HTTP and the gRPC client have classes of the same names."""

from __future__ import annotations

import re
from types import ModuleType

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from client import INTERNAL
from services import Service


def inputs(client: ModuleType, binary: bool = True, **arrays: np.ndarray) -> list:
    made = []
    for name, array in arrays.items():
        tensor = client.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        how = {"binary_data": binary} if client is tritonclient.http else {}
        made.append(tensor.set_data_from_numpy(array, **how))
    return made


def random(*shape: int) -> np.ndarray:
    """Numbers that no memory has met."""
    return np.random.default_rng().standard_normal(shape, np.float32)


def no_version(server: Service) -> str:
    """The error for version 3 of the model `versioned`, which has 1, 2 and 10."""
    if server.name == "web_api":
        return 'versioned has no version "3"; available versions: 1, 2, 10.'
    return 'versioned has no version "3"; available versions: 1, 2, 10.'


def assert_refused(status: str, words: str, call, *given, **named) -> None:
    """With exactly these words, and nothing internal among them."""
    with pytest.raises(InferenceServerException) as refused:
        call(*given, **named)
    assert (refused.value.status(), refused.value.message()) == (status, words)
    assert not re.search(INTERNAL, refused.value.message())
