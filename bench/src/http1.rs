use std::io::{self, ErrorKind};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A kept connection on which one request is answered at a time.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came back, in the connection's memory.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Of HTTP, or what it is called there.
    pub status: u16,
    /// `Inference-Header-Content-Length`.
    pub json_length: Option<usize>,
    /// `Cache-Status`.
    pub cache_status: &'a [u8],
    /// Without what HTTP puts around it.
    pub body: &'a [u8],
    /// The other end closes the connection now.
    pub closes: bool,
}

/// Where the parts of an answer lie.
struct Head {
    status: u16,
    length: usize,
    body: Length,
    json_length: Option<usize>,
    cache_status: (usize, usize),
    closes: bool,
}

enum Length {
    Known(usize),
    Chunked,
}

impl Connection {
    /// Connects.
    pub async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(1 << 14) })
    }

    /// Sends a whole request, and reads a whole answer.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            self.read_some().await?;
            if let Some(head) = Head::read(&self.buffer)? {
                break head;
            }
        };
        let end = match head.body {
            Length::Known(length) => {
                let end = head.length + length;
                self.buffer.reserve(end.saturating_sub(self.buffer.len()));
                while self.buffer.len() < end {
                    self.read_some().await?;
                }
                end
            }
            Length::Chunked => self.read_chunks(head.length).await?,
        };
        let (from, to) = head.cache_status;
        Ok(Answer {
            status: head.status,
            json_length: head.json_length,
            cache_status: &self.buffer[from..to],
            body: &self.buffer[head.length..end],
            closes: head.closes,
        })
    }

    async fn read_some(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Moves the chunks from `begin` on together, and gives their end.
    async fn read_chunks(&mut self, begin: usize) -> io::Result<usize> {
        let (mut at, mut end) = (begin, begin);
        loop {
            let size = loop {
                match httparse::parse_chunk_size(&self.buffer[at..]).map_err(|_| malformed())? {
                    httparse::Status::Complete((digits, size)) => {
                        at += digits;
                        break size as usize;
                    }
                    httparse::Status::Partial => self.read_some().await?,
                }
            };
            while self.buffer.len() < at + size + 2 {
                self.read_some().await?;
            }
            if size == 0 {
                return Ok(end);
            }
            self.buffer.copy_within(at..at + size, end);
            (at, end) = (at + size + 2, end + size);
        }
    }
}

impl Head {
    /// `None` while it is not complete.
    fn read(buffer: &[u8]) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(buffer).map_err(|_| malformed())? else {
            return Ok(None);
        };
        let status = response.code.unwrap_or_default();
        let mut head =
            Self { status, length, body: Length::Known(0), json_length: None, cache_status: (0, 0), closes: false };
        for header in response.headers.iter() {
            let number = || str::from_utf8(header.value).ok().and_then(|text| text.parse().ok());
            let name = header.name;
            if name.eq_ignore_ascii_case("content-length") {
                head.body = Length::Known(number().ok_or_else(malformed)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.body = Length::Chunked;
            } else if name.eq_ignore_ascii_case("inference-header-content-length") {
                head.json_length = number();
            } else if name.eq_ignore_ascii_case("cache-status") {
                let from = header.value.as_ptr() as usize - buffer.as_ptr() as usize;
                head.cache_status = (from, from + header.value.len());
            } else if name.eq_ignore_ascii_case("connection") {
                head.closes = header.value.eq_ignore_ascii_case(b"close");
            }
        }
        Ok(Some(head))
    }
}

fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "no HTTP/1.1")
}
