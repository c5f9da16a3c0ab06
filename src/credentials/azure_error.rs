//! Why Entra or a registry gave no token, in words with a remedy.
//!
//! An error carries what an operator or Azure's support needs (who answered, status, code, correlation id), and nothing
//! that was sent or received besides: no token, no secret, no body, no address with a query.

mod sentence;

use std::{fmt, time::Duration};

/// Why Entra or a registry gave no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureError {
    /// What went wrong.
    pub kind: AzureErrorKind,
    /// With whom.
    pub party: Box<Party>,
    /// The HTTP status, when there was an answer.
    pub status: Option<u16>,
    /// The code of Entra's answer: the digits after `AADSTS`.
    pub entra_code: Option<u32>,
    /// What finds the request in Azure's logs.
    pub correlation_id: Option<CorrelationId>,
    /// How long the other side asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// Who was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// Entra.
    Entra {
        /// The host of the authority.
        authority: String,
        /// The tenant that was asked for.
        tenant: String,
        /// The application id.
        client: String,
    },
    /// The metadata service of an Azure machine, which speaks for Entra there.
    MachineMetadata,
    /// A registry.
    Registry {
        /// `host[:port]` in lower case.
        login_server: String,
    },
}

/// What went wrong, each with a remedy of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AzureErrorKind {
    /// The secret of the service principal has expired.
    SecretExpired,
    /// Entra does not know the secret.
    SecretWrong,
    /// Entra does not know the certificate, or it has expired.
    CertificateUnknown,
    /// The signed assertion is not valid at this time: a clock is wrong.
    AssertionTime,
    /// No federated credential of the application fits the token.
    FederationMismatch,
    /// The token of the other issuer is expired or could not be verified.
    FederatedTokenInvalid,
    /// The tenant does not know the application.
    ApplicationUnknown,
    /// The application is disabled.
    ApplicationDisabled,
    /// The tenant does not exist, or not in this cloud.
    TenantUnknown,
    /// Microsoft has blocked the tenant.
    TenantBlocked,
    /// The scope does not exist in this cloud or tenant.
    ScopeUnknown,
    /// A policy of the tenant keeps the application out.
    BlockedByPolicy,
    /// The identity was refused by Entra for a reason that has no sentence of its own.
    EntraRefused {
        /// The `error` of the answer, such as `invalid_client`.
        error: Option<String>,
    },
    /// The machine has no such identity, or is no Azure machine.
    NoManagedIdentity,
    /// The registry does not let the identity in.
    RegistryRefused,
    /// The registry finds the token of Entra itself invalid: that it is for another audience is the most likely.
    TokenInvalid,
    /// A firewall rule or the lack of public access keeps this address out.
    Firewall,
    /// There is no registry of this name that exchanges tokens.
    NotARegistry,
    /// The registry has no such image, or hides it.
    ImageUnknown,
    /// Too many requests.
    Throttled,
    /// Not asked: too many login servers were asked for lately that never gave a token.
    TooManyUnknown,
    /// The other side reports a fault of its own.
    Unavailable,
    /// The host name cannot be resolved.
    Dns,
    /// No connection.
    Connection(ConnectionFault),
    /// The proxy did not let the request through.
    Proxy,
    /// The certificate of the other side is not trusted.
    Tls {
        /// What rustls says of it.
        reason: String,
    },
    /// No answer in time.
    Timeout,
    /// The answer points elsewhere, where no credential is ever sent.
    Redirected,
    /// The answer is not what this service answers: a page of a proxy, most often.
    NotTheService {
        /// It is a web page.
        html: bool,
    },
    /// The lifetime of the token cannot be right.
    TokenLifetime(LifetimeFault),
    /// The registry asks for a sign-in elsewhere, where no credential is ever sent.
    ForeignRealm {
        /// The host that it names.
        realm: String,
    },
    /// A file that is needed for the request cannot be used.
    File {
        /// Which, why, and what to do.
        reason: String,
    },
    /// The request could not be made.
    Internal {
        /// From a closed set of texts.
        reason: &'static str,
    },
}

/// Why there was no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionFault {
    /// Nobody listens.
    Refused,
    /// There is no way there.
    Unreachable,
    /// It broke.
    Broken,
}

/// What is wrong with the lifetime of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifetimeFault {
    /// It is no JWT, or has no `exp` that is a time.
    Unreadable,
    /// It is over by the clock of this machine.
    Over,
    /// It is shorter than a minute.
    TooShort,
    /// It is longer than a year.
    TooLong,
}

/// A correlation id: letters, digits and dashes only, since it comes from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorrelationId(String);

impl CorrelationId {
    /// Takes over an id that looks like one.
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed = (8..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
            && text.contains('-');
        well_formed.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AzureError {
    /// An error without an answer behind it.
    pub fn new(kind: AzureErrorKind, party: Party) -> Self {
        Self { kind, party: Box::new(party), status: None, entra_code: None, correlation_id: None, retry_after: None }
    }

    /// Nobody answered, and it took all the time that there was to find that out.
    pub fn is_silence(&self) -> bool {
        matches!(self.kind, AzureErrorKind::Timeout | AzureErrorKind::Dns)
    }

    /// The outcome of a refresh as a metric label, from a closed set.
    pub fn as_label(&self) -> &'static str {
        match self.kind {
            AzureErrorKind::SecretExpired => "secret_expired",
            AzureErrorKind::SecretWrong
            | AzureErrorKind::CertificateUnknown
            | AzureErrorKind::AssertionTime
            | AzureErrorKind::FederationMismatch
            | AzureErrorKind::FederatedTokenInvalid
            | AzureErrorKind::ApplicationUnknown
            | AzureErrorKind::ApplicationDisabled
            | AzureErrorKind::TenantUnknown
            | AzureErrorKind::TenantBlocked
            | AzureErrorKind::ScopeUnknown
            | AzureErrorKind::BlockedByPolicy
            | AzureErrorKind::EntraRefused { .. }
            | AzureErrorKind::NoManagedIdentity => "identity_refused",
            AzureErrorKind::RegistryRefused
            | AzureErrorKind::TokenInvalid
            | AzureErrorKind::ImageUnknown
            | AzureErrorKind::ForeignRealm { .. }
            | AzureErrorKind::NotARegistry => "registry_refused",
            AzureErrorKind::Firewall => "firewall",
            AzureErrorKind::Throttled | AzureErrorKind::TooManyUnknown => "throttled",
            AzureErrorKind::Unavailable => "unavailable",
            AzureErrorKind::Dns
            | AzureErrorKind::Connection(_)
            | AzureErrorKind::Proxy
            | AzureErrorKind::Tls { .. }
            | AzureErrorKind::Timeout => "unreachable",
            AzureErrorKind::Redirected
            | AzureErrorKind::NotTheService { .. }
            | AzureErrorKind::TokenLifetime(_)
            | AzureErrorKind::File { .. }
            | AzureErrorKind::Internal { .. } => "invalid",
        }
    }
}

impl fmt::Display for AzureError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        sentence::write(self, formatter)
    }
}

impl std::error::Error for AzureError {}
