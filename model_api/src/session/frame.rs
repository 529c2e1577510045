//! Wire format between parent and child: length-prefixed frames over a socket pair.
//!
//! ```text
//! u32 little-endian: length of the header │ header: JSON, a message and its tensors' names, datatypes and shapes │ their bytes
//! ```
//!
//! The parent begins with `Load` and waits for `Ready` or `Failed`. The child answers each `Run` with `Outputs`, `Rejected`,
//! `OutputsTooLarge` or `Cancelled`, and each `AddBucket` with `Outputs` or `Rejected`. There is one run at a time: a second
//! thread in ONNX Runtime would only compete for the same cores. Cancellations use another socket ([`super::cancellation`]),
//! because the child does not read requests during a run.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use open_inference::{Datatype, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::StartError;
use super::info::{DevicePreference, SessionInfo};
use crate::memory::Budget;

/// Maximum length of a header, bytes: far more than the names of any graph need.
const MAX_HEADER_BYTES: usize = 1 << 20;

/// Maximum size of all tensors of a frame, bytes: a length from a corrupt header must not allocate without bound.
const MAX_PAYLOAD_BYTES: usize = 1 << 30;

/// Tensors of up to this many bytes are copied behind the preceding part of the frame: a copy costs less than another wake-up
/// of the receiver.
const MAX_COPIED_BYTES: usize = 64 << 10;

/// Rejection of a frame that exceeds a limit.
pub const INPUTS_TOO_LARGE: &str = "the inputs are too large for a session; send fewer or smaller rows";

/// Parent to child.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Opens this model. The first frame, and only the first.
    Load(LoadRequest),
    /// Runs the model on the tensors of the frame. Runs are numbered from 1.
    Run(u64),
    /// Adds a batch bucket of this many rows ([`super::onnx`]). The response has no tensors.
    #[serde(rename = "KeepSize")]
    AddBucket(usize),
}

/// How a child opens a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadRequest {
    /// The ONNX Runtime library.
    pub library: PathBuf,
    /// The ONNX file.
    pub graph: PathBuf,
    /// Where to run.
    pub device: DevicePreference,
    /// Threads per operator.
    pub threads: usize,
    /// Input shapes for the warm-up, if the settings specify more than the graph.
    pub shapes: BTreeMap<String, Vec<i64>>,
}

/// Child to parent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Response {
    /// The model is open and warm.
    #[serde(rename = "Hello")]
    Ready(Box<SessionInfo>),
    /// The model cannot be opened. The child ends.
    Failed(StartError),
    /// The tensors of the frame are the outputs, in the order of the graph.
    #[serde(rename = "Answer")]
    Outputs,
    /// ONNX Runtime rejected the run. The child is ready for the next one.
    #[serde(rename = "Refused")]
    Rejected(String),
    /// The outputs have this many bytes, which is more than the limit.
    #[serde(rename = "TooLarge")]
    OutputsTooLarge(usize),
    /// The run was cancelled.
    #[serde(rename = "Terminated")]
    Cancelled,
}

#[derive(Serialize, Deserialize)]
struct Header<'a, M> {
    message: M,
    tensors: Vec<TensorHeader<'a>>,
}

#[derive(Serialize, Deserialize)]
struct TensorHeader<'a> {
    name: Cow<'a, str>,
    datatype: Datatype,
    shape: Vec<i64>,
    bytes: usize,
}

/// Writes a frame, in the child.
pub fn write<M: Serialize>(to: &mut impl Write, message: &M, tensors: &[Tensor]) -> io::Result<()> {
    encode(message, &[tensors])?.iter().try_for_each(|chunk| to.write_all(chunk))
}

/// Reads a frame, in the child. Each tensor has a buffer of its own, which ONNX Runtime can read without a copy: in one common
/// buffer, all but the first could be misaligned.
pub fn read<M: DeserializeOwned>(from: &mut impl Read) -> io::Result<(M, Vec<Tensor>)> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut header = vec![0; header_length(length)?];
    from.read_exact(&mut header)?;
    let header: Header<M> = serde_json::from_slice(&header)?;
    header.payload_length()?;
    let Header { message, tensors } = header;
    let read = |tensor: TensorHeader<'_>| {
        let mut data = BytesMut::zeroed(tensor.bytes);
        from.read_exact(&mut data)?;
        tensor.with_data(data.freeze())
    };
    Ok((message, tensors.into_iter().map(read).collect::<io::Result<_>>()?))
}

/// Writes a frame, in the parent. Its tensors have the rows of all `requests`, which are not copied into one buffer. The error
/// is `InvalidData` if the frame is too large: then nothing has been sent. Not cancel-safe: after an interrupted write the
/// session must be dropped.
pub async fn write_async<M: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    message: &M,
    requests: &[&[Tensor]],
) -> io::Result<()> {
    for chunk in encode(message, requests)? {
        to.write_all(&chunk).await?;
    }
    Ok(())
}

/// Reads a frame, in the parent. Reserves memory for its tensors from `budget` and waits until it is available. Not cancel-safe.
pub async fn read_async<M: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    budget: &Budget,
) -> io::Result<(M, Vec<Tensor>)> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let mut header = vec![0; header_length(length)?];
    from.read_exact(&mut header).await?;
    let header: Header<M> = serde_json::from_slice(&header)?;
    let length = header.payload_length()?;
    let reservation = budget.reserve(length).await;
    let mut payload = BytesMut::zeroed(length);
    from.read_exact(&mut payload).await?;
    header.with_payload(reservation.attach(payload.freeze()))
}

/// The frame in chunks. Tensors that are too large to copy are chunks of their own.
fn encode<M: Serialize>(message: &M, requests: &[&[Tensor]]) -> io::Result<Vec<Bytes>> {
    let tensors = requests.first().copied().unwrap_or_default();
    let parts = |index: usize| requests.iter().filter_map(move |request| request.get(index));
    let headers = tensors.iter().enumerate().map(|(index, tensor)| {
        let mut shape: Vec<i64> = tensor.shape.iter().map(|&length| length.cast_signed() as i64).collect();
        if let (Some(rows), [_, _, ..]) = (shape.first_mut(), requests) {
            *rows = parts(index).filter_map(Tensor::rows).sum::<usize>().cast_signed() as i64;
        }
        let bytes = parts(index).map(|part| part.data.len()).sum();
        TensorHeader { name: Cow::Borrowed(&tensor.name), datatype: tensor.datatype, shape, bytes }
    });
    let headers: Vec<_> = headers.collect();
    let payload: usize = headers.iter().map(|header| header.bytes).sum();
    let mut chunk = vec![0; 4];
    serde_json::to_writer(&mut chunk, &Header { message, tensors: headers })?;
    let length = chunk.len() - 4;
    if length > MAX_HEADER_BYTES || payload > MAX_PAYLOAD_BYTES {
        return Err(invalid(INPUTS_TOO_LARGE));
    }
    chunk[..4].copy_from_slice(&(length as u32).to_le_bytes());
    let mut chunks = Vec::new();
    for data in (0..tensors.len()).flat_map(parts).map(|part| &part.data) {
        if data.len() <= MAX_COPIED_BYTES {
            chunk.extend_from_slice(data);
        } else {
            chunks.extend([std::mem::take(&mut chunk).into(), data.clone()]);
        }
    }
    chunks.push(chunk.into());
    chunks.retain(|chunk| !chunk.is_empty());
    Ok(chunks)
}

fn header_length(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(bytes) as usize;
    if length > MAX_HEADER_BYTES { Err(invalid("the header of the frame is too large")) } else { Ok(length) }
}

impl<M> Header<'_, M> {
    fn payload_length(&self) -> io::Result<usize> {
        self.tensors
            .iter()
            .try_fold(0_usize, |sum, tensor| sum.checked_add(tensor.bytes))
            .filter(|&length| length <= MAX_PAYLOAD_BYTES)
            .ok_or_else(|| invalid("the tensors of the frame are too large"))
    }

    /// Splits `payload`, which has the length that the header declares.
    fn with_payload(self, mut payload: Bytes) -> io::Result<(M, Vec<Tensor>)> {
        let split = |tensor: TensorHeader<'_>| {
            let data = payload.split_to(tensor.bytes);
            tensor.with_data(data)
        };
        Ok((self.message, self.tensors.into_iter().map(split).collect::<io::Result<_>>()?))
    }
}

impl TensorHeader<'_> {
    /// Validates the tensor: a model that has corrupted its own process must not corrupt the parent.
    fn with_data(self, data: Bytes) -> io::Result<Tensor> {
        Tensor::new(&self.name, self.datatype, &self.shape, data).map_err(|error| invalid(&error.to_string()))
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    fn tensor(length: usize) -> Tensor {
        Tensor::from_f32("x", Datatype::Fp32, vec![1, length], &vec![0.5; length]).unwrap()
    }

    #[tokio::test]
    async fn a_frame_arrives_unchanged_in_one_chunk_or_in_several() {
        for length in [1, MAX_COPIED_BYTES] {
            let (mut parent, child) = UnixStream::pair().unwrap();
            let child = child.into_std().unwrap();
            child.set_nonblocking(false).unwrap();
            let sent = [tensor(length), tensor(3)];
            let echo = std::thread::spawn(move || {
                let (request, tensors) = read::<Request>(&mut &child).unwrap();
                assert!(matches!(request, Request::Run(7)));
                write(&mut &child, &Response::Outputs, &tensors).unwrap();
            });
            write_async(&mut parent, &Request::Run(7), &[&sent]).await.unwrap();
            let (response, received) = read_async::<Response>(&mut parent, &Budget::new(1 << 20)).await.unwrap();
            assert!(matches!(response, Response::Outputs));
            assert_eq!(received, sent);
            echo.join().unwrap();
        }
    }

    #[test]
    fn names_of_messages_on_the_wire_are_stable() {
        let name = |message: serde_json::Result<String>| message.unwrap();
        assert_eq!(name(serde_json::to_string(&Request::Run(1))), r#"{"Run":1}"#);
        assert_eq!(name(serde_json::to_string(&Request::AddBucket(4))), r#"{"KeepSize":4}"#);
        let failures = [StartError::Model, StartError::DeviceUnavailable, StartError::Crashed];
        for (failure, expected) in failures.into_iter().zip(["Model", "NoDevice", "Died"]) {
            let response = Response::Failed(failure(String::new()));
            assert_eq!(name(serde_json::to_string(&response)), format!(r#"{{"Failed":{{"{expected}":""}}}}"#));
        }
        assert_eq!(name(serde_json::to_string(&Response::Outputs)), r#""Answer""#);
        assert_eq!(name(serde_json::to_string(&Response::Rejected(String::new()))), r#"{"Refused":""}"#);
        assert_eq!(name(serde_json::to_string(&Response::OutputsTooLarge(9))), r#"{"TooLarge":9}"#);
        assert_eq!(name(serde_json::to_string(&Response::Cancelled)), r#""Terminated""#);
    }

    #[tokio::test]
    async fn the_rows_of_several_requests_arrive_as_one_batch() {
        let (mut parent, child) = UnixStream::pair().unwrap();
        let child = child.into_std().unwrap();
        child.set_nonblocking(false).unwrap();
        let request = |rows: usize, value: f32| {
            let numbers = Tensor::from_f32("x", Datatype::Fp32, vec![rows, 2], &vec![value; rows * 2]).unwrap();
            [numbers, Tensor::from_strings("s", vec![rows], vec![value.to_string(); rows])]
        };
        let (one, two) = (request(1, 0.5), request(2, 0.25));
        write_async(&mut parent, &Request::Run(1), &[&one, &two]).await.unwrap();
        let (_, received) = read::<Request>(&mut &child).unwrap();
        let stacked = [0, 1].map(|index| Tensor::concat_rows(&[&one[index], &two[index]]).unwrap());
        assert_eq!(received, stacked);
    }

    #[test]
    fn lengths_in_a_corrupt_frame_allocate_no_memory() {
        let error = read::<Request>(&mut [0xff; 64].as_slice()).unwrap_err();
        assert_eq!(error.to_string(), "the header of the frame is too large");
        let header = r#"{"message": {"Run": 1}, "tensors": [{"name": "x", "datatype": "FP32", "shape": [1], "bytes": 4294967296}]}"#;
        let mut frame = (header.len() as u32).to_le_bytes().to_vec();
        frame.extend_from_slice(header.as_bytes());
        let error = read::<Request>(&mut frame.as_slice()).unwrap_err();
        assert_eq!(error.to_string(), "the tensors of the frame are too large");
    }

    #[tokio::test]
    async fn a_tensor_whose_bytes_do_not_match_its_shape_is_invalid() {
        for (datatype, shape) in [("FP32", "[2]"), ("FP32", "[-1]"), ("BYTES", "[1]")] {
            let tensor = format!(r#"{{"name": "y", "datatype": "{datatype}", "shape": {shape}, "bytes": 4}}"#);
            let header = format!(r#"{{"message": "Answer", "tensors": [{tensor}]}}"#);
            let length = (header.len() as u32).to_le_bytes();
            let (mut parent, mut child) = UnixStream::pair().unwrap();
            // As the length of a string, these bytes exceed the data by far.
            child.write_all(&[&length[..], header.as_bytes(), &[0xff; 4]].concat()).await.unwrap();
            let error = read_async::<Response>(&mut parent, &Budget::new(1 << 20)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }
}
