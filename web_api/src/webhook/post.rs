use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::task::AbortOnDropHandle;

use super::allow::{AllowList, BadWebhook, address};

/// For one try altogether.
const DEADLINE: Duration = Duration::from_secs(10);

/// For one address, so that there is time for another.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

const USER_AGENT: &str = concat!("MLServe/", env!("CARGO_PKG_VERSION"));

/// Calls one URL. Not by reqwest, which would look up a name by itself: here the address that is connected to is the very one that was
/// checked, and there are neither redirects nor proxies to be switched off.
#[derive(Clone)]
pub struct Poster {
    allow: AllowList,
    tls: TlsConnector,
    deadline: Duration,
}

/// Why a webhook was not taken, in words for whoever submitted the job: they name no address.
#[derive(Debug, thiserror::Error)]
pub enum Undelivered {
    /// Not allowed any more.
    #[error("{0}")]
    Webhook(#[from] BadWebhook),
    /// Ours.
    #[error("the job cannot be written down")]
    NoBody,
    /// The name is unknown, or the name server is.
    #[error("its host has no address at the moment")]
    NoAddress,
    /// Loopback, private, …
    #[error("its host has no address that may be called: none is on the Internet or in WEBHOOK_ALLOW")]
    Forbidden,
    /// Nobody listens.
    #[error("no connection to it could be made")]
    NoConnection,
    /// A bad certificate, say.
    #[error("no secure connection to it could be made: {0}")]
    Tls(std::io::Error),
    /// No HTTP, or the end of it.
    #[error("it ended the connection without an answer")]
    NoAnswer,
    /// Not in time.
    #[error("it did not answer in time")]
    Late,
    /// Anything but 2xx.
    #[error("it answered {}", .0.as_u16())]
    Status(StatusCode),
}

impl Poster {
    /// Calls what `allow` permits, and over TLS whom Mozilla's certificate authorities vouch for. The certificates are in the program:
    /// its image has none.
    pub fn new(allow: AllowList) -> Self {
        Self::trusting(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }, allow)
    }

    fn trusting(roots: RootCertStore, allow: AllowList) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows the ciphers of TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { allow, tls: TlsConnector::from(Arc::new(config)), deadline: DEADLINE }
    }

    /// Ends well when the answer is 2xx. What else is in the answer is not read.
    pub async fn post(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<(), Undelivered> {
        let status = timeout(self.deadline, self.ask(url, headers, body)).await.map_err(|_| Undelivered::Late)??;
        if status.is_success() { Ok(()) } else { Err(Undelivered::Status(status)) }
    }

    async fn ask(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<StatusCode, Undelivered> {
        let host = url.host_str().ok_or(BadWebhook::NoUrl)?;
        let request = request(url, headers, body)?;
        let stream = self.connect(host, url.port_or_known_default().unwrap_or(80)).await?;
        if url.scheme() != "https" {
            return send(TokioIo::new(stream), request).await;
        }
        let name = match address(host) {
            Some(address) => ServerName::IpAddress(address.into()),
            None => ServerName::try_from(host.to_owned()).map_err(|_| BadWebhook::NoUrl)?,
        };
        let stream = self.tls.connect(name, stream).await.map_err(Undelivered::Tls)?;
        send(TokioIo::new(stream), request).await
    }

    /// To one of the host's addresses that may be called. The name is looked up once: were it looked up again to connect, it could lead
    /// elsewhere by then.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Undelivered> {
        let found: Vec<SocketAddr> = match address(host) {
            Some(address) => vec![SocketAddr::new(address, port)],
            None => lookup_host((host, port)).await.map_err(|_| Undelivered::NoAddress)?.collect(),
        };
        for address in self.permitted(&found)? {
            if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                return Ok(stream);
            }
        }
        Err(Undelivered::NoConnection)
    }

    fn permitted(&self, found: &[SocketAddr]) -> Result<Vec<SocketAddr>, Undelivered> {
        let permits = |address: &&SocketAddr| self.allow.permits(address.ip());
        let permitted: Vec<SocketAddr> = found.iter().filter(permits).copied().collect();
        match (found, permitted.as_slice()) {
            ([], _) => Err(Undelivered::NoAddress),
            (_, []) => Err(Undelivered::Forbidden),
            _ => Ok(permitted),
        }
    }
}

/// With the path alone, as it is sent to a server and not to a proxy.
fn request(url: &Url, headers: HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, Undelivered> {
    let uri: Uri = url.as_str().parse().map_err(|_| BadWebhook::NoUrl)?;
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let mut request = Request::post(path).body(Full::new(body)).map_err(|_| BadWebhook::NoUrl)?;
    *request.headers_mut() = headers;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let host = format!("{}{port}", url.host_str().unwrap_or_default());
    request.headers_mut().insert(header::HOST, HeaderValue::try_from(host).map_err(|_| BadWebhook::NoUrl)?);
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    Ok(request)
}

async fn send<T>(stream: T, request: Request<Full<Bytes>>) -> Result<StatusCode, Undelivered>
where
    T: Read + Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|_| Undelivered::NoAnswer)?;
    // Ends with this call, also where that is given up.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(|_| Undelivered::NoAnswer)?;
    Ok(response.status())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;

    const TAKEN: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

    fn poster() -> Poster {
        Poster { deadline: Duration::from_secs(5), ..Poster::new("localhost, 127.0.0.1, ::1".parse().unwrap()) }
    }

    async fn post(poster: &Poster, url: &str) -> Result<(), Undelivered> {
        poster.post(&url.parse().unwrap(), HeaderMap::new(), Bytes::from_static(b"{}")).await
    }

    /// The port of somebody who hears what is said to him first, and answers so.
    async fn answering(answer: &'static [u8], tls: Option<TlsAcceptor>) -> u16 {
        async fn talk(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, answer: &[u8]) {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                match &tls {
                    None => talk(stream, answer).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            talk(stream, answer).await;
                        }
                    }
                }
            }
        });
        port
    }

    #[test]
    fn of_several_addresses_only_those_that_may_be_called_are() {
        let poster = Poster::new("hooks.example.org".parse().unwrap());
        let all = |list: &str| -> Vec<SocketAddr> { list.split_whitespace().map(|at| at.parse().unwrap()).collect() };
        let mixed = all("127.0.0.1:80 8.8.8.8:80 [::ffff:10.0.0.1]:80 [2606:4700::1]:80");
        assert_eq!(poster.permitted(&mixed).unwrap(), all("8.8.8.8:80 [2606:4700::1]:80"));
        let inside = all("127.0.0.1:80 [fd00::1]:80");
        assert!(matches!(poster.permitted(&inside), Err(Undelivered::Forbidden)));
        assert!(matches!(poster.permitted(&[]), Err(Undelivered::NoAddress)));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_apart() {
        let poster = poster();
        let at = async |answer| format!("http://localhost:{}/", answering(answer, None).await);
        assert!(post(&poster, &at(TAKEN).await).await.is_ok());
        for (answer, error) in [
            (b"HTTP/1.1 301 Moved\r\nLocation: http://localhost/\r\n\r\n".as_slice(), "it answered 301"),
            (b"HTTP/1.1 100 Continue\r\n\r\n", "it ended the connection without an answer"),
            (b"220 mail.example.org\r\n", "it ended the connection without an answer"),
            (b"", "it ended the connection without an answer"),
        ] {
            assert_eq!(post(&poster, &at(answer).await).await.unwrap_err().to_string(), error);
        }
        let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", deaf.local_addr().unwrap());
        let hurried = Poster { deadline: Duration::from_millis(100), ..poster };
        assert!(matches!(post(&hurried, &url).await, Err(Undelivered::Late)));
    }

    /// A certificate for localhost, and its key. `None` where there is no openssl, and none is required.
    fn certificate() -> Option<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        struct Folder(PathBuf);
        impl Drop for Folder {
            fn drop(&mut self) {
                let _ = std::fs::remove_dir_all(&self.0);
            }
        }
        let folder = Folder(std::env::temp_dir().join(format!("mlserve-webhook-{}", std::process::id())));
        std::fs::create_dir_all(&folder.0).unwrap();
        let options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out cert -days 2 \
            -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
        let made = Command::new("openssl").args(options.split_whitespace()).current_dir(&folder.0).output();
        match made {
            Ok(made) => assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr)),
            Err(error) if std::env::var("REQUIRE_ALL").is_ok_and(|value| value == "1") => {
                panic!("openssl cannot be started: {error}")
            }
            Err(error) => {
                eprintln!("SKIPPED: openssl cannot be started: {error}");
                return None;
            }
        }
        let certificate = CertificateDer::from_pem_file(folder.0.join("cert")).unwrap();
        Some((certificate, PrivateKeyDer::from_pem_file(folder.0.join("key")).unwrap()))
    }

    #[tokio::test]
    async fn https_is_spoken_with_whom_a_certificate_authority_vouches_for() {
        let Some((certificate, key)) = certificate() else { return };
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let port = answering(TAKEN, Some(TlsAcceptor::from(Arc::new(config)))).await;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let trusting = Poster::trusting(roots, poster().allow);
        post(&trusting, &format!("https://localhost:{port}/")).await.unwrap();
        let other_name = post(&trusting, &format!("https://127.0.0.1:{port}/")).await;
        assert!(matches!(other_name, Err(Undelivered::Tls(_))), "{other_name:?}");
        let unknown = post(&poster(), &format!("https://localhost:{port}/")).await.unwrap_err().to_string();
        assert!(unknown.starts_with("no secure connection to it could be made: invalid peer certificate"), "{unknown}");
        let no_tls = post(&poster(), &format!("https://localhost:{}/", answering(TAKEN, None).await)).await;
        assert!(matches!(no_tls, Err(Undelivered::Tls(_))), "{no_tls:?}");
    }
}
