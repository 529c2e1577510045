"""The gRPC surface that both services serve, held against the record in `e2e/interface/grpc.json`: services, methods,
messages with their fields, and enumerations."""

from __future__ import annotations

from typing import Iterator

import grpc
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet

from services import Service
from test_interface import Spawn, compare

# Field numbers of grpc/reflection/v1/reflection.proto.
FILE_CONTAINING_SYMBOL, LIST_SERVICES = 4, 7
FILE_DESCRIPTOR_RESPONSE, LIST_SERVICES_RESPONSE = 4, 6


def parts(message: bytes, number: int) -> list[bytes]:
    """The values of one field of an encoded message. No generated code is needed for so few fields."""
    return [field.data for field in UnknownFieldSet(Empty.FromString(message)) if field.field_number == number]


def reflect(channel: grpc.Channel, number: int, value: str) -> bytes:
    """The response to one request of the server reflection, in which this field is set."""
    call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    (response,) = call(iter([bytes([number << 3 | 2, len(value)]) + value.encode()]), timeout=10)
    return response


def files_of(channel: grpc.Channel) -> dict[str, FileDescriptorProto]:
    """The files that define the listed services, by their names."""
    (listed,) = parts(reflect(channel, LIST_SERVICES, "*"), LIST_SERVICES_RESPONSE)
    services = [name.decode() for service in parts(listed, 1) for name in parts(service, 1)]
    assert services, "the server lists no service"
    found = {}
    for service in services:
        (response,) = parts(reflect(channel, FILE_CONTAINING_SYMBOL, service), FILE_DESCRIPTOR_RESPONSE)
        for encoded in parts(response, 1):
            file = FileDescriptorProto.FromString(encoded)
            found[file.name] = file
    return found


def type_of(field: FieldDescriptorProto) -> str:
    """As in a .proto file: `repeated int64`, or the full name of a message."""
    kind = field.type_name.removeprefix(".") or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"repeated {kind}" if field.label == FieldDescriptorProto.LABEL_REPEATED else kind


def messages(prefix: str, declared: list[DescriptorProto]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each message and the messages within it: the number of each field with its name and type."""
    for message in declared:
        name = f"{prefix}.{message.name}"
        yield name, {str(field.number): f"{field.name}: {type_of(field)}" for field in message.field}
        yield from messages(name, list(message.nested_type))


def enums(prefix: str, declared: list[DescriptorProto], direct: list[EnumDescriptorProto]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each enumeration and those within messages: the number of each value with its name."""
    for enum in direct:
        yield f"{prefix}.{enum.name}", {str(value.number): value.name for value in enum.value}
    for message in declared:
        yield from enums(f"{prefix}.{message.name}", list(message.nested_type), list(message.enum_type))


def methods(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """Each method by its path, with the types of its request and response."""
    for service in file.service:
        for method in service.method:
            request = "stream " * method.client_streaming + method.input_type.removeprefix(".")
            response = "stream " * method.server_streaming + method.output_type.removeprefix(".")
            yield f"/{file.package}.{service.name}/{method.name}", f"{request} → {response}"


def surface_of(service: Service) -> dict[str, object]:
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        files = files_of(channel).values()
    return {
        "methods": dict(method for file in files for method in methods(file)),
        "messages": dict(message for file in files for message in messages(file.package, list(file.message_type))),
        "enums": dict(enum for file in files for enum in enums(file.package, list(file.message_type), list(file.enum_type))),
    }


def test_grpc_has_the_recorded_methods_and_messages(spawn: Spawn):
    model_api = spawn("model_api", MODEL_NAME="mnist")
    web = spawn("web_api", MODEL_API_URL=model_api.url)
    found = surface_of(web)
    compare("grpc", found)
    assert surface_of(model_api) == found
