//! Responses that every service sends: problem documents, gRPC statuses and conditional responses.

pub mod conditional;
pub mod grpc_status;
pub mod problem;
