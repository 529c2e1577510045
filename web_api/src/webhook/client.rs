//! HTTP client for webhooks that connects only to permitted addresses.
//!
//! It does not use `reqwest`, which resolves host names itself. Here, the address of the connection is the one that was checked. There are
//! neither redirects nor proxies to disable.

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

use super::allow_list::{AllowList, InvalidWebhook};
use super::network::parse_address;

/// Timeout of an attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of a connection to one address, which leaves time for another.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

const USER_AGENT: &str = concat!("MLServe/", env!("CARGO_PKG_VERSION"));

/// Sends webhooks.
#[derive(Clone)]
pub struct WebhookClient {
    allow: AllowList,
    tls: TlsConnector,
    timeout: Duration,
}

/// Reason why a webhook was not delivered. Messages are for the client that submitted the job, and contain no address.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The URL is not allowed, or no longer.
    #[error("{0}")]
    Invalid(#[from] InvalidWebhook),
    /// An internal error.
    #[error("the request could not be encoded")]
    Encoding,
    /// The lookup of the host failed.
    #[error("its host has no address at the moment")]
    NoAddress,
    /// All addresses are loopback, private or otherwise special.
    #[error("its host has no address that may be called: none is on the Internet or in WEBHOOK_ALLOW")]
    Forbidden,
    /// All addresses refused the connection, or did not respond.
    #[error("no connection to it could be made")]
    Unreachable,
    /// For example an invalid certificate.
    #[error("no secure connection to it could be made: {0}")]
    Tls(std::io::Error),
    /// Not HTTP, or the connection was closed.
    #[error("it closed the connection without a response")]
    NoResponse,
    /// No response within the timeout.
    #[error("it did not respond within the timeout")]
    TimedOut,
    /// A status other than 2xx.
    #[error("it responded with status {}", .0.as_u16())]
    Status(StatusCode),
}

impl WebhookClient {
    /// Connects to addresses that `allow` permits. TLS trusts Mozilla's certificate authorities, which are compiled in because the container
    /// image has none.
    pub fn new(allow: AllowList) -> Self {
        Self::with_roots(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }, allow)
    }

    fn with_roots(roots: RootCertStore, allow: AllowList) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports the ciphers of TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { allow, tls: TlsConnector::from(Arc::new(config)), timeout: ATTEMPT_TIMEOUT }
    }

    /// Sends one request. Succeeds if the status is 2xx; the rest of the response is not read.
    pub async fn send(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<(), DeliveryError> {
        let status =
            timeout(self.timeout, self.post(url, headers, body)).await.map_err(|_| DeliveryError::TimedOut)??;
        if status.is_success() { Ok(()) } else { Err(DeliveryError::Status(status)) }
    }

    async fn post(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<StatusCode, DeliveryError> {
        let host = url.host_str().ok_or(InvalidWebhook::InvalidUrl)?;
        let request = build_request(url, headers, body)?;
        let stream = self.connect(host, url.port_or_known_default().unwrap_or(80)).await?;
        if url.scheme() != "https" {
            return exchange(TokioIo::new(stream), request).await;
        }
        let name = match parse_address(host) {
            Some(address) => ServerName::IpAddress(address.into()),
            None => ServerName::try_from(host.to_owned()).map_err(|_| InvalidWebhook::InvalidUrl)?,
        };
        let stream = self.tls.connect(name, stream).await.map_err(DeliveryError::Tls)?;
        exchange(TokioIo::new(stream), request).await
    }

    /// Connects to one of the permitted addresses of the host. The name is looked up only once: another lookup for the connection could
    /// return addresses that have not been checked (DNS rebinding).
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, DeliveryError> {
        let found: Vec<SocketAddr> = match parse_address(host) {
            Some(address) => vec![SocketAddr::new(address, port)],
            None => lookup_host((host, port)).await.map_err(|_| DeliveryError::NoAddress)?.collect(),
        };
        for address in self.permitted(&found)? {
            if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                return Ok(stream);
            }
        }
        Err(DeliveryError::Unreachable)
    }

    fn permitted(&self, found: &[SocketAddr]) -> Result<Vec<SocketAddr>, DeliveryError> {
        let permits = |address: &&SocketAddr| self.allow.permits(address.ip());
        let permitted: Vec<SocketAddr> = found.iter().filter(permits).copied().collect();
        match (found, permitted.as_slice()) {
            ([], _) => Err(DeliveryError::NoAddress),
            (_, []) => Err(DeliveryError::Forbidden),
            _ => Ok(permitted),
        }
    }
}

/// Builds a request with a target in origin form.
fn build_request(url: &Url, headers: HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, DeliveryError> {
    let uri: Uri = url.as_str().parse().map_err(|_| InvalidWebhook::InvalidUrl)?;
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let mut request = Request::post(path).body(Full::new(body)).map_err(|_| InvalidWebhook::InvalidUrl)?;
    *request.headers_mut() = headers;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let host = format!("{}{port}", url.host_str().unwrap_or_default());
    request.headers_mut().insert(header::HOST, HeaderValue::try_from(host).map_err(|_| InvalidWebhook::InvalidUrl)?);
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    Ok(request)
}

/// Sends a request on a new connection, and reads the status.
async fn exchange<T>(stream: T, request: Request<Full<Bytes>>) -> Result<StatusCode, DeliveryError>
where
    T: Read + Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|_| DeliveryError::NoResponse)?;
    // Aborted with this call, also if it is cancelled.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(|_| DeliveryError::NoResponse)?;
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

    const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

    fn client() -> WebhookClient {
        let allow = "localhost, 127.0.0.1, ::1".parse().unwrap();
        WebhookClient { timeout: Duration::from_secs(5), ..WebhookClient::new(allow) }
    }

    async fn send(client: &WebhookClient, url: &str) -> Result<(), DeliveryError> {
        client.send(&url.parse().unwrap(), HeaderMap::new(), Bytes::from_static(b"{}")).await
    }

    /// Starts a server that reads a request and sends `response`. Returns its port.
    async fn server(response: &'static [u8], tls: Option<TlsAcceptor>) -> u16 {
        async fn respond(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, response: &[u8]) {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(response).await;
            let _ = stream.shutdown().await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                match &tls {
                    None => respond(stream, response).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            respond(stream, response).await;
                        }
                    }
                }
            }
        });
        port
    }

    #[test]
    fn only_permitted_addresses_of_a_host_are_used() {
        let client = WebhookClient::new("hooks.example.org".parse().unwrap());
        let all = |list: &str| -> Vec<SocketAddr> { list.split_whitespace().map(|at| at.parse().unwrap()).collect() };
        let mixed = all("127.0.0.1:80 8.8.8.8:80 [::ffff:10.0.0.1]:80 [2606:4700::1]:80");
        assert_eq!(client.permitted(&mixed).unwrap(), all("8.8.8.8:80 [2606:4700::1]:80"));
        let inside = all("127.0.0.1:80 [fd00::1]:80");
        assert!(matches!(client.permitted(&inside), Err(DeliveryError::Forbidden)));
        assert!(matches!(client.permitted(&[]), Err(DeliveryError::NoAddress)));
    }

    #[tokio::test]
    async fn delivery_errors_name_the_reason() {
        let client = client();
        let url_of = async |response| format!("http://localhost:{}/", server(response, None).await);
        assert!(send(&client, &url_of(NO_CONTENT).await).await.is_ok());
        for (response, error) in [
            (b"HTTP/1.1 301 Moved\r\nLocation: http://localhost/\r\n\r\n".as_slice(), "it responded with status 301"),
            (b"HTTP/1.1 100 Continue\r\n\r\n", "it closed the connection without a response"),
            (b"220 mail.example.org\r\n", "it closed the connection without a response"),
            (b"", "it closed the connection without a response"),
        ] {
            assert_eq!(send(&client, &url_of(response).await).await.unwrap_err().to_string(), error);
        }
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let impatient = WebhookClient { timeout: Duration::from_millis(100), ..client };
        assert!(matches!(send(&impatient, &url).await, Err(DeliveryError::TimedOut)));
    }

    /// A certificate for localhost, and its key. `None` if openssl is missing and not required.
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
        let output = Command::new("openssl").args(options.split_whitespace()).current_dir(&folder.0).output();
        match output {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
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
    async fn https_requires_a_certificate_of_a_trusted_authority() {
        let Some((certificate, key)) = certificate() else { return };
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let port = server(NO_CONTENT, Some(TlsAcceptor::from(Arc::new(config)))).await;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let trusting = WebhookClient::with_roots(roots, client().allow);
        send(&trusting, &format!("https://localhost:{port}/")).await.unwrap();
        let other_name = send(&trusting, &format!("https://127.0.0.1:{port}/")).await;
        assert!(matches!(other_name, Err(DeliveryError::Tls(_))), "{other_name:?}");
        let unknown = send(&client(), &format!("https://localhost:{port}/")).await.unwrap_err().to_string();
        assert!(unknown.starts_with("no secure connection to it could be made: invalid peer certificate"), "{unknown}");
        let no_tls = send(&client(), &format!("https://localhost:{}/", server(NO_CONTENT, None).await)).await;
        assert!(matches!(no_tls, Err(DeliveryError::Tls(_))), "{no_tls:?}");
    }
}
