//! The one HTTP client for Entra and the registries: redirects off, short timeouts, the system's proxy and certificates.

use std::{
    error::Error,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use certs::polled_file;
use reqwest::{
    Certificate, Client, Response, StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    header,
    redirect::Policy,
};
use sha2::{Digest as _, Sha256};

use super::azure_error::{AzureError, AzureErrorKind, ConnectionFault, CorrelationId, Party};

/// How long is waited for the other side.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// From the first byte sent to the last received.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(4), total: Duration::from_secs(8) }
    }
}

/// No answer that we read is larger than some kilobytes.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// What a ConfigMap can hold.
const MAX_CA_FILE_BYTES: u64 = 1024 * 1024;
/// Whoever throttles us and asks for a longer wait is asked again after this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);
/// The same for any other answer: that of a proxy on the way must not keep us from Azure for long.
const LONGEST_RETRY_AFTER_OTHERS: Duration = Duration::from_secs(5 * 60);
const USER_AGENT: &str = concat!("acr-pull-injector/", env!("CARGO_PKG_VERSION"));

/// Gives out the HTTP client. The file with more certificates is read again each time, and a new client is built when its
/// bytes have changed.
#[derive(Debug)]
pub struct AzureHttp {
    ca_file: Option<PathBuf>,
    timeouts: Timeouts,
    built: Mutex<Option<Built>>,
}

#[derive(Clone, Debug)]
struct Built {
    ca_hash: [u8; 32],
    client: Client,
}

impl AzureHttp {
    /// Trusts the system's certificates (`SSL_CERT_FILE` works) and those in `ca_file`.
    #[must_use]
    pub fn new(ca_file: Option<PathBuf>) -> Self {
        Self::with_timeouts(ca_file, Timeouts::default())
    }

    /// The same with a patience of one's own.
    #[must_use]
    pub fn with_timeouts(ca_file: Option<PathBuf>, timeouts: Timeouts) -> Self {
        Self { ca_file, timeouts, built: Mutex::default() }
    }

    /// The client for a request to `party`.
    ///
    /// # Errors
    ///
    /// When the certificates cannot be used and there is no client from before.
    pub async fn client(&self, party: &Party) -> Result<Client, AzureError> {
        let known = self.built.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let failed = |reason: String| AzureError::new(AzureErrorKind::File { reason }, party.clone());
        let pem = match &self.ca_file {
            None => Vec::new(),
            Some(path) => match polled_file::read(path, MAX_CA_FILE_BYTES).await {
                Ok(pem) => pem,
                Err(error) => {
                    // What worked keeps working while the file is being replaced.
                    return known
                        .map(|built| built.client)
                        .ok_or_else(|| failed(format!("azure.caFile {} cannot be read: {error}", path.display())));
                }
            },
        };
        let ca_hash: [u8; 32] = Sha256::digest(&pem).into();
        if let Some(built) = &known
            && built.ca_hash == ca_hash
        {
            return Ok(built.client.clone());
        }
        let path = self.ca_file.as_deref().unwrap_or_else(|| std::path::Path::new("")).display();
        let certificates = Certificate::from_pem_bundle(&pem)
            .ok()
            .filter(|certificates| self.ca_file.is_none() || !certificates.is_empty())
            .ok_or_else(|| failed(format!("azure.caFile {path} holds no certificate in PEM")));
        let client = certificates.and_then(|certificates| {
            builder(self.timeouts).tls_certs_merge(certificates).build().map_err(|_| {
                failed(
                    "no certificate to trust could be loaded: install the CA certificates of the system, or name a file \
                     in azure.caFile or SSL_CERT_FILE"
                        .to_owned(),
                )
            })
        });
        match (client, known) {
            (Ok(client), _) => {
                let built = Built { ca_hash, client: client.clone() };
                *self.built.lock().unwrap_or_else(PoisonError::into_inner) = Some(built);
                Ok(client)
            }
            (Err(error), Some(built)) => {
                tracing::warn!(%error, "the certificates trusted before stay in use");
                Ok(built.client)
            }
            (Err(error), None) => Err(error),
        }
    }
}

/// A client for the metadata service of an Azure machine: a fixed address of the machine itself, never behind a proxy.
///
/// # Errors
///
/// When it cannot be built.
pub fn metadata_client() -> Result<Client, AzureError> {
    builder(Timeouts::default()).no_proxy().build().map_err(|_| {
        AzureError::new(
            AzureErrorKind::Internal { reason: "the HTTP client could not be built" },
            Party::MachineMetadata,
        )
    })
}

/// Resolves names as the system does, and the names below `localhost` to this machine, as
/// <https://www.rfc-editor.org/rfc/rfc6761#section-6.3> allows and curl and browsers do: that is where a registry for trying
/// out stands.
#[derive(Debug)]
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            if name.as_str().to_ascii_lowercase().ends_with(".localhost") {
                let addresses =
                    [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
                return Ok(Box::new(addresses.into_iter()) as Addrs);
            }
            let addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn builder(timeouts: Timeouts) -> reqwest::ClientBuilder {
    Client::builder()
        .dns_resolver(Arc::new(Resolver))
        .redirect(Policy::none())
        .connect_timeout(timeouts.connect)
        .timeout(timeouts.total)
        .user_agent(USER_AGENT)
        // A token is fetched every hour or so: by then whoever is between us and Azure has forgotten the connection.
        .pool_idle_timeout(Duration::from_secs(15))
}

/// An answer with its body. Never printed: the body may hold a token.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: header::HeaderMap,
    /// The body, at most 256 KiB of it.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answer {
    /// Sends a request and reads the answer.
    ///
    /// # Errors
    ///
    /// When there is none, or one that is too long to be right.
    pub async fn to(request: reqwest::RequestBuilder, party: &Party) -> Result<Self, AzureError> {
        let response = request.send().await.map_err(|error| failure(&error, party))?;
        Self::read(response, party).await
    }

    async fn read(mut response: Response, party: &Party) -> Result<Self, AzureError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failure(&error, party))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(AzureError::new(AzureErrorKind::NotTheService { html: false }, party.clone()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Self { status: response.status(), headers: response.headers().clone(), body })
    }

    /// Whether the body holds this text.
    pub(super) fn says(&self, text: &[u8]) -> bool {
        self.body.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text))
    }

    /// An error of this kind, with what the answer tells of itself.
    #[must_use]
    pub fn error(&self, kind: AzureErrorKind, party: &Party) -> AzureError {
        let correlation_id = ["x-ms-correlation-request-id", "client-request-id", "x-ms-request-id"]
            .iter()
            .find_map(|name| CorrelationId::parse(self.headers.get(*name)?.to_str().ok()?));
        AzureError {
            status: Some(self.status.as_u16()),
            correlation_id,
            retry_after: self.retry_after(),
            ..AzureError::new(kind, party.clone())
        }
    }

    /// Whether the body is a web page, which neither Entra nor a registry answers with.
    #[must_use]
    pub fn is_html(&self) -> bool {
        let typed = self
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().to_ascii_lowercase().windows(4).any(|window| window == b"html"));
        typed || self.body.trim_ascii_start().first() == Some(&b'<')
    }

    /// `Retry-After`, in seconds or as a date: an hour at most where we are throttled, else five minutes.
    fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
        let delay = if let Ok(seconds) = text.parse() {
            Duration::from_secs(seconds)
        } else {
            let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(date.duration_since(jiff::Timestamp::now())).unwrap_or_default()
        };
        let longest = match self.status {
            StatusCode::TOO_MANY_REQUESTS => LONGEST_RETRY_AFTER,
            _ => LONGEST_RETRY_AFTER_OTHERS,
        };
        Some(delay.min(longest))
    }
}

/// Why there was no answer. The text of reqwest's error holds the address and stays out.
fn failure(error: &reqwest::Error, party: &Party) -> AzureError {
    let mut kind = None;
    walk(error, &mut |cause| {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            kind = Some(AzureErrorKind::Tls { reason: tls.to_string() });
            return;
        }
        if kind.is_some() {
            return;
        }
        kind = match cause.to_string().as_str() {
            "dns error" => Some(AzureErrorKind::Dns),
            text if text.starts_with("tunnel error") || text.starts_with("unsuccessful tunnel") => {
                Some(AzureErrorKind::Proxy)
            }
            _ => None,
        };
    });
    let kind = kind.unwrap_or_else(|| {
        if error.is_timeout() {
            return AzureErrorKind::Timeout;
        }
        let mut fault = ConnectionFault::Broken;
        walk(error, &mut |cause| {
            if let Some(cause) = cause.downcast_ref::<io::Error>() {
                match cause.kind() {
                    io::ErrorKind::ConnectionRefused => fault = ConnectionFault::Refused,
                    io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                        fault = ConnectionFault::Unreachable;
                    }
                    _ => {}
                }
            }
        });
        AzureErrorKind::Connection(fault)
    });
    AzureError::new(kind, party.clone())
}

/// Visits an error and all its causes. An [`io::Error`] hides the error that it wraps from `source`.
fn walk(error: &(dyn Error + 'static), visit: &mut dyn FnMut(&(dyn Error + 'static))) {
    visit(error);
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    if let Some(wrapped) = wrapped {
        walk(wrapped, visit);
    } else if let Some(source) = error.source() {
        walk(source, visit);
    }
}
