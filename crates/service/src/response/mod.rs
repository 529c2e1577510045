//! Responses of every service: problem documents, gRPC statuses and conditional responses.

pub mod conditional;
pub mod grpc_status;
pub mod problem;
