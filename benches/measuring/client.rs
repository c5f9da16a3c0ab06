//! A small HTTP/1.1 client over TLS, blocking, one thread per connection: it costs less than what it measures.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Longer than any answer takes: what hangs shall end the bench.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A server that answers reviews.
#[derive(Clone, Debug)]
pub struct Endpoint {
    address: SocketAddr,
    server_name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Endpoint {
    /// Trusts the certificates in `ca_pem`. Like the API server it makes every handshake anew, without resumption.
    pub fn new(address: SocketAddr, server_name: &str, ca_pem: &[u8]) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            roots.add(certificate?)?;
        }
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        let server_name = ServerName::try_from(server_name.to_owned())?;
        Ok(Self { address, server_name, config: Arc::new(config) })
    }

    /// Opens a connection; the handshake is done when this returns.
    pub fn connect(&self) -> Result<Connection, Error> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let mut stream =
            StreamOwned::new(ClientConnection::new(self.config.clone(), self.server_name.clone())?, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Connection { stream, received: vec![0; 16 << 10] })
    }

    /// The bytes of a request with this body, as the API server words it.
    pub fn request(body: &[u8]) -> Vec<u8> {
        let head = format!(
            "POST /mutate?timeout=5s HTTP/1.1\r\nHost: acr-pull-injector.acr-pull-injector.svc:443\r\n\
             User-Agent: kube-apiserver-admission\r\nContent-Length: {}\r\nAccept: application/json, */*\r\n\
             Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }
}

/// An open connection, kept alive.
#[derive(Debug)]
pub struct Connection {
    stream: StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
}

impl Connection {
    /// Sends a whole request and gives the body of the answer. Another status than 200 is an error.
    pub fn exchange(&mut self, request: &[u8]) -> Result<&[u8], Error> {
        self.stream.write_all(request)?;
        self.stream.flush()?;
        let mut length = 0;
        let (body_start, body_end) = loop {
            if let Some((start, content_length)) = head(&self.received[..length])? {
                break (start, start + content_length);
            }
            length += self.receive(length)?;
        };
        while length < body_end {
            length += self.receive(length)?;
        }
        Ok(&self.received[body_start..body_end])
    }

    fn receive(&mut self, length: usize) -> io::Result<usize> {
        if length == self.received.len() {
            self.received.resize(2 * length, 0);
        }
        match self.stream.read(&mut self.received[length..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

/// Where the body begins and how long it is, once the head is complete.
fn head(received: &[u8]) -> Result<Option<(usize, usize)>, Error> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = str::from_utf8(&received[..end])?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("the server answered: {head}").into());
    }
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.ok_or("an answer without a Content-Length")?.1.trim().parse()?;
    Ok(Some((end + 4, length)))
}
