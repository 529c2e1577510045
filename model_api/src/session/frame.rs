//! What parent and child say to each other over the socket pair: a frame is
//!
//! ```text
//! u32 little-endian: length of the head │ head: JSON, a message and its tensors' names, datatypes and shapes │ their bytes
//! ```
//!
//! The parent begins with `Load` and waits for `Hello` or `Failed`; then each `Run` is answered by `Answer`, `Refused` or
//! `Terminated`, and each `KeepSize` by `Answer` or `Refused`. One run at a time: a second thread in ONNX Runtime would only
//! compete for the same cores. The number of a run that is to end goes to the child by another way ([`super::ending`]), since
//! nobody reads here while one is under way.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use open_inference::{Datatype, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{DeviceWish, Hello, StartError};
use crate::memory::Budget;

/// Far above any graph's list of names, far below what hurts.
const MAX_HEAD: usize = 1 << 20;

/// Of all tensors of a frame together; a length out of a damaged head must not take the memory.
const MAX_PAYLOAD: usize = 1 << 30;

/// Bytes of all outputs of one run, and of the results of one request. It is what `web_api` reads of one response.
pub const MAX_RESULT_BYTES: usize = 256 << 20;

/// Up to here bytes are copied behind what goes out before them: a copy is cheaper than waking the other side once more.
const SMALL: usize = 64 << 10;

/// Parent to child.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Open this model. The first frame, and only the first.
    Load(Load),
    /// Run the model on the frame's tensors. Runs are numbered from 1.
    Run(u64),
    /// Keep a session for batches of so many rows ([`super::sizes`]). Answered without tensors.
    KeepSize(usize),
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
    Hello(Box<Hello>),
    /// The model cannot be opened; the child ends.
    Failed(StartError),
    /// The frame's tensors are the outputs, in the graph's order.
    Answer,
    /// ONNX Runtime refused this run and is ready for the next.
    Refused(String),
    /// The outputs have so many bytes, which is more than they may have.
    TooLarge(usize),
    /// The run was ended since it was to end.
    Terminated,
}

#[derive(Serialize, Deserialize)]
struct Head<'a, M> {
    message: M,
    tensors: Vec<TensorHead<'a>>,
}

#[derive(Serialize, Deserialize)]
struct TensorHead<'a> {
    name: Cow<'a, str>,
    datatype: Datatype,
    shape: Vec<i64>,
    bytes: usize,
}

/// The child's way to write a frame.
pub fn write<M: Serialize>(to: &mut impl Write, message: &M, tensors: &[Tensor]) -> io::Result<()> {
    pieces(message, &[tensors])?.iter().try_for_each(|piece| to.write_all(piece))
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
    let read = |tensor: TensorHead<'_>| {
        let mut data = BytesMut::zeroed(tensor.bytes);
        from.read_exact(&mut data)?;
        tensor.with(data.freeze())
    };
    Ok((message, tensors.into_iter().map(read).collect::<io::Result<_>>()?))
}

/// The parent's way to write a frame, whose tensors have the rows of all `requests`: none are copied to bring them together.
/// `InvalidData` when it is too large: then nothing has been sent. Not cancel-safe: a session whose write was given up
/// must be dropped.
pub async fn write_async<M: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    message: &M,
    requests: &[&[Tensor]],
) -> io::Result<()> {
    for piece in pieces(message, requests)? {
        to.write_all(&piece).await?;
    }
    Ok(())
}

/// The parent's way to read a frame: memory for its tensors is taken out of `budget`, as soon as there is room. Not cancel-safe
/// either.
pub async fn read_async<M: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    budget: &Budget,
) -> io::Result<(M, Vec<Tensor>)> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let mut head = vec![0; head_length(length)?];
    from.read_exact(&mut head).await?;
    let head: Head<M> = serde_json::from_slice(&head)?;
    let length = head.payload_length()?;
    let reserved = budget.reserve(length).await;
    let mut payload = BytesMut::zeroed(length);
    from.read_exact(&mut payload).await?;
    head.with(reserved.hold(payload.freeze()))
}

/// The frame, cut where tensors are too large to be copied.
fn pieces<M: Serialize>(message: &M, requests: &[&[Tensor]]) -> io::Result<Vec<Bytes>> {
    let tensors = requests.first().copied().unwrap_or_default();
    let parts = |place: usize| requests.iter().filter_map(move |request| request.get(place));
    let heads = tensors.iter().enumerate().map(|(place, tensor)| {
        let mut shape: Vec<i64> = tensor.shape.iter().map(|&length| length.cast_signed() as i64).collect();
        if let (Some(rows), [_, _, ..]) = (shape.first_mut(), requests) {
            *rows = parts(place).filter_map(Tensor::rows).sum::<usize>().cast_signed() as i64;
        }
        let bytes = parts(place).map(|part| part.data.len()).sum();
        TensorHead { name: Cow::Borrowed(&tensor.name), datatype: tensor.datatype, shape, bytes }
    });
    let heads: Vec<_> = heads.collect();
    let payload: usize = heads.iter().map(|head| head.bytes).sum();
    let mut piece = vec![0; 4];
    serde_json::to_writer(&mut piece, &Head { message, tensors: heads })?;
    let length = piece.len() - 4;
    if length > MAX_HEAD || payload > MAX_PAYLOAD {
        return Err(invalid("the inputs are too large for a session"));
    }
    piece[..4].copy_from_slice(&(length as u32).to_le_bytes());
    let mut pieces = Vec::new();
    for data in (0..tensors.len()).flat_map(parts).map(|part| &part.data) {
        if data.len() <= SMALL {
            piece.extend_from_slice(data);
        } else {
            pieces.extend([std::mem::take(&mut piece).into(), data.clone()]);
        }
    }
    pieces.push(piece.into());
    pieces.retain(|piece| !piece.is_empty());
    Ok(pieces)
}

fn head_length(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(bytes) as usize;
    if length > MAX_HEAD { Err(invalid("the frame's head is too large")) } else { Ok(length) }
}

impl<M> Head<'_, M> {
    fn payload_length(&self) -> io::Result<usize> {
        self.tensors
            .iter()
            .try_fold(0_usize, |sum, tensor| sum.checked_add(tensor.bytes))
            .filter(|&length| length <= MAX_PAYLOAD)
            .ok_or_else(|| invalid("the frame's tensors are too large"))
    }

    /// `payload` is as long as the head says.
    fn with(self, mut payload: Bytes) -> io::Result<(M, Vec<Tensor>)> {
        let cut = |tensor: TensorHead<'_>| {
            let data = payload.split_to(tensor.bytes);
            tensor.with(data)
        };
        Ok((self.message, self.tensors.into_iter().map(cut).collect::<io::Result<_>>()?))
    }
}

impl TensorHead<'_> {
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
    use tokio::net::UnixStream;

    use super::*;

    fn tensor(length: usize) -> Tensor {
        Tensor::from_f32("x", Datatype::Fp32, vec![1, length], &vec![0.5; length]).unwrap()
    }

    #[tokio::test]
    async fn a_frame_arrives_as_it_was_sent_in_one_piece_or_in_several() {
        for length in [1, SMALL] {
            let (mut parent, child) = UnixStream::pair().unwrap();
            let child = child.into_std().unwrap();
            child.set_nonblocking(false).unwrap();
            let sent = [tensor(length), tensor(3)];
            let echo = std::thread::spawn(move || {
                let (order, tensors) = read::<Order>(&mut &child).unwrap();
                assert!(matches!(order, Order::Run(7)));
                write(&mut &child, &Reply::Answer, &tensors).unwrap();
            });
            write_async(&mut parent, &Order::Run(7), &[&sent]).await.unwrap();
            let (reply, received) = read_async::<Reply>(&mut parent, &Budget::new(1 << 20)).await.unwrap();
            assert!(matches!(reply, Reply::Answer));
            assert_eq!(received, sent);
            echo.join().unwrap();
        }
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
        write_async(&mut parent, &Order::Run(1), &[&one, &two]).await.unwrap();
        let (_, received) = read::<Order>(&mut &child).unwrap();
        let stacked = [0, 1].map(|place| Tensor::concat_rows(&[&one[place], &two[place]]).unwrap());
        assert_eq!(received, stacked);
    }

    #[test]
    fn lengths_out_of_a_damaged_frame_take_no_memory() {
        let error = read::<Order>(&mut [0xff; 64].as_slice()).unwrap_err();
        assert_eq!(error.to_string(), "the frame's head is too large");
        let head = r#"{"message": {"Run": 1}, "tensors": [{"name": "x", "datatype": "FP32", "shape": [1], "bytes": 4294967296}]}"#;
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
            let error = read_async::<Reply>(&mut parent, &Budget::new(1 << 20)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }
}
