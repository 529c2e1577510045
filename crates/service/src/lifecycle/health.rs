//! HTTP client of the `health` and `metrics` subcommands: container health checks and metrics without curl in the
//! image.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Timeout of the request. Shorter than the timeout of container health checks.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Requests `/health/ready` from the service at `address` and prints the response. Exit code 0 only for status 200.
pub async fn check(address: SocketAddr) -> ExitCode {
    print(address, "/health/ready").await
}

/// Prints the metrics of the service whose `METRICS_ADDR` is `address`, in the OpenMetrics text format. This is the way
/// to read them from outside a container, since that listener is never published. Exit code 0 only for status 200.
pub async fn print_metrics(address: SocketAddr) -> ExitCode {
    print(address, "/metrics").await
}

async fn print(address: SocketAddr, path: &str) -> ExitCode {
    match timeout(RESPONSE_TIMEOUT, get(connectable(address), path)).await {
        Ok(Ok((status, body))) => {
            // A reader such as `head` may have closed stdout.
            let _ = writeln!(io::stdout(), "{}", body.trim_end());
            if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(Err(error)) => {
            println!("does not answer: {error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            println!("does not answer within {} s", RESPONSE_TIMEOUT.as_secs());
            ExitCode::FAILURE
        }
    }
}

/// Replaces an unspecified address by the loopback address.
fn connectable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// Response size limit. The metrics of hundreds of models take hundreds of kilobytes.
const MAX_RESPONSE_BYTES: usize = 16 << 20;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, String), AnyError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
