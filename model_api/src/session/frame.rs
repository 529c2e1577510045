//! What parent and child say to each other over the socket pair: a frame is
//!
//! ```text
//! u32 little-endian: length of the head │ head: JSON, a message and its tensors' names, datatypes and shapes │ their bytes
//! ```
//!
//! The parent begins with `Load` and waits for `Hello` or `Failed`; then each `Run` is answered by `Answer` or
//! `Refused`. One run at a time: a second thread in ONNX Runtime would only compete for the same cores.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use open_inference::{Datatype, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{DeviceWish, Hello, StartError};

/// Far above any graph's list of names, far below what hurts.
const MAX_HEAD: usize = 1 << 20;

/// Of all tensors of a frame together; a length out of a damaged head must not take the memory.
const MAX_PAYLOAD: usize = 1 << 30;

/// Up to here head and tensors go out in one piece: a copy is cheaper than waking the other side twice.
const ONE_PIECE: usize = 64 << 10;

/// Parent to child.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Open this model. The first frame, and only the first.
    Load(Load),
    /// Run the model on the frame's tensors.
    Run,
}

/// What a child needs to know to open a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// The ONNX Runtime library.
    pub library: PathBuf,
    /// The ONNX file.
    pub graph: PathBuf,
    /// Where to run.
    pub device: DeviceWish,
    /// Threads of one operator.
    pub threads: usize,
    /// Input shapes for the warm-up where they say more than the graph.
    pub shapes: BTreeMap<String, Vec<i64>>,
}

/// Child to parent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The model is open and has answered a first run.
    Hello(Hello),
    /// The model cannot be opened; the child ends.
    Failed(StartError),
    /// The frame's tensors are the outputs, in the graph's order.
    Answer,
    /// ONNX Runtime refused this run and is ready for the next.
    Refused(String),
}

#[derive(Serialize, Deserialize)]
struct Head<M> {
    message: M,
    tensors: Vec<TensorHead>,
}

#[derive(Serialize, Deserialize)]
struct TensorHead {
    name: String,
    datatype: Datatype,
    shape: Vec<i64>,
    bytes: usize,
}

/// The child's way to write a frame.
pub fn write<M: Serialize>(to: &mut impl Write, message: &M, tensors: &[Tensor]) -> io::Result<()> {
    pieces(message, tensors)?.iter().try_for_each(|piece| to.write_all(piece))
}

/// The child's way to read a frame. Each tensor has memory of its own, where ONNX Runtime can read it without a copy: in
/// one piece, all but the first would lie askew.
pub fn read<M: DeserializeOwned>(from: &mut impl Read) -> io::Result<(M, Vec<Tensor>)> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut head = vec![0; head_length(length)?];
    from.read_exact(&mut head)?;
    let head: Head<M> = serde_json::from_slice(&head)?;
    head.payload_length()?;
    let Head { message, tensors } = head;
    let read = |tensor: TensorHead| {
        let mut data = BytesMut::zeroed(tensor.bytes);
        from.read_exact(&mut data)?;
        tensor.with(data.freeze())
    };
    Ok((message, tensors.into_iter().map(read).collect::<io::Result<_>>()?))
}

/// The parent's way to write a frame. `InvalidData` when it is too large: then nothing has been sent. Not cancel-safe: a
/// session whose write was given up must be dropped.
pub async fn write_async<M: Serialize>(to: &mut UnixStream, message: &M, tensors: &[Tensor]) -> io::Result<()> {
    for piece in pieces(message, tensors)? {
        to.write_all(&piece).await?;
    }
    Ok(())
}

/// The parent's way to read a frame. Not cancel-safe either.
pub async fn read_async<M: DeserializeOwned>(from: &mut UnixStream) -> io::Result<(M, Vec<Tensor>)> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let mut head = vec![0; head_length(length)?];
    from.read_exact(&mut head).await?;
    let head: Head<M> = serde_json::from_slice(&head)?;
    let mut payload = BytesMut::zeroed(head.payload_length()?);
    from.read_exact(&mut payload).await?;
    head.with(payload.freeze())
}

fn pieces<M: Serialize>(message: &M, tensors: &[Tensor]) -> io::Result<Vec<Bytes>> {
    let heads = tensors
        .iter()
        .map(|tensor| TensorHead {
            name: tensor.name.clone(),
            datatype: tensor.datatype,
            shape: tensor.shape.iter().map(|&length| length.cast_signed() as i64).collect(),
            bytes: tensor.data.len(),
        })
        .collect();
    let mut first = vec![0; 4];
    serde_json::to_writer(&mut first, &Head { message, tensors: heads })?;
    let length = first.len() - 4;
    let payload: usize = tensors.iter().map(|tensor| tensor.data.len()).sum();
    if length > MAX_HEAD || payload > MAX_PAYLOAD {
        return Err(invalid("the inputs are too large for a session"));
    }
    first[..4].copy_from_slice(&(length as u32).to_le_bytes());
    if payload <= ONE_PIECE {
        for tensor in tensors {
            first.extend_from_slice(&tensor.data);
        }
        return Ok(vec![first.into()]);
    }
    let tensors = tensors.iter().map(|tensor| tensor.data.clone());
    Ok(std::iter::once(first.into()).chain(tensors).collect())
}

fn head_length(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(bytes) as usize;
    if length > MAX_HEAD { Err(invalid("the frame's head is too large")) } else { Ok(length) }
}

impl<M> Head<M> {
    fn payload_length(&self) -> io::Result<usize> {
        self.tensors
            .iter()
            .try_fold(0_usize, |sum, tensor| sum.checked_add(tensor.bytes))
            .filter(|&length| length <= MAX_PAYLOAD)
            .ok_or_else(|| invalid("the frame's tensors are too large"))
    }

    /// `payload` is as long as the head says.
    fn with(self, mut payload: Bytes) -> io::Result<(M, Vec<Tensor>)> {
        let cut = |tensor: TensorHead| {
            let data = payload.split_to(tensor.bytes);
            tensor.with(data)
        };
        Ok((self.message, self.tensors.into_iter().map(cut).collect::<io::Result<_>>()?))
    }
}

impl TensorHead {
    /// Checked: a model that has damaged its process is not to damage the parent's.
    fn with(self, data: Bytes) -> io::Result<Tensor> {
        Tensor::new(&self.name, self.datatype, &self.shape, data).map_err(|error| invalid(&error.to_string()))
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(length: usize) -> Tensor {
        Tensor::from_f32("x", Datatype::Fp32, vec![1, length], &vec![0.5; length]).unwrap()
    }

    #[tokio::test]
    async fn a_frame_arrives_as_it_was_sent_in_one_piece_or_in_several() {
        for length in [1, ONE_PIECE] {
            let (mut parent, child) = UnixStream::pair().unwrap();
            let child = child.into_std().unwrap();
            child.set_nonblocking(false).unwrap();
            let sent = [tensor(length), tensor(3)];
            let echo = std::thread::spawn(move || {
                let (order, tensors) = read::<Order>(&mut &child).unwrap();
                assert!(matches!(order, Order::Run));
                write(&mut &child, &Reply::Answer, &tensors).unwrap();
            });
            write_async(&mut parent, &Order::Run, &sent).await.unwrap();
            let (reply, received) = read_async::<Reply>(&mut parent).await.unwrap();
            assert!(matches!(reply, Reply::Answer));
            assert_eq!(received, sent);
            echo.join().unwrap();
        }
    }

    #[test]
    fn lengths_out_of_a_damaged_frame_take_no_memory() {
        let error = read::<Order>(&mut [0xff; 64].as_slice()).unwrap_err();
        assert_eq!(error.to_string(), "the frame's head is too large");
        let head =
            r#"{"message": "Run", "tensors": [{"name": "x", "datatype": "FP32", "shape": [1], "bytes": 4294967296}]}"#;
        let mut frame = (head.len() as u32).to_le_bytes().to_vec();
        frame.extend_from_slice(head.as_bytes());
        let error = read::<Order>(&mut frame.as_slice()).unwrap_err();
        assert_eq!(error.to_string(), "the frame's tensors are too large");
    }

    #[tokio::test]
    async fn a_tensor_whose_bytes_do_not_fit_its_shape_is_nonsense() {
        for (datatype, shape) in [("FP32", "[2]"), ("FP32", "[-1]"), ("BYTES", "[1]")] {
            let tensor = format!(r#"{{"name": "y", "datatype": "{datatype}", "shape": {shape}, "bytes": 4}}"#);
            let head = format!(r#"{{"message": "Answer", "tensors": [{tensor}]}}"#);
            let length = (head.len() as u32).to_le_bytes();
            let (mut parent, mut child) = UnixStream::pair().unwrap();
            // As a string's length these bytes lead far beyond what is there.
            child.write_all(&[&length[..], head.as_bytes(), &[0xff; 4]].concat()).await.unwrap();
            let error = read_async::<Reply>(&mut parent).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }
}
