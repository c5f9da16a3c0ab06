//! Tokens of Entra, by `azure_identity` over our own transport.
//!
//! `azure_identity` 1.0 loses status and code of an answer whose description holds an escape (`EntraIdErrorResponse`
//! borrows from the JSON), and it would repeat requests to the metadata service for minutes. So the transport classifies
//! every answer itself, and the first failure it sees ends the sign-in. A credential object lives for one sign-in: the token is
//! cached here, by our clock.

mod refusal;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use azure_core::{
    cloud::{CloudConfiguration, CustomConfiguration},
    credentials::{AccessToken, Secret, TokenCredential},
    http::{
        AsyncRawResponse, Body, ClientMethodOptions, ClientOptions, HttpClient, Request, RetryOptions, Transport,
        headers::{HeaderName, HeaderValue, Headers},
    },
    time::OffsetDateTime,
};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
};

use super::{
    azure_error::{AzureError, AzureErrorKind, Party},
    files::read_line,
    http::{Answer, AzureHttp, metadata_client},
    identity::{Application, Identity, Proof},
};
use crate::{clock::Clock, domain::pull_secret::Password};

/// A token of Entra. It is sent to registries and to nobody else.
#[derive(Clone, Debug)]
pub struct EntraToken {
    /// The token.
    pub secret: Password,
    /// How long it is good from now.
    pub life: Duration,
}

/// Signs in at Entra.
#[derive(Clone, Debug)]
pub struct Entra {
    http: Arc<AzureHttp>,
    clock: Clock,
}

impl Entra {
    /// Signs in over this HTTP client.
    pub fn new(http: Arc<AzureHttp>, clock: Clock) -> Self {
        Self { http, clock }
    }

    /// Asks for a token of this identity. Nothing is cached and nothing is tried twice.
    ///
    /// # Errors
    ///
    /// Says in words what Entra or the network has against it.
    pub async fn token(&self, identity: &Identity) -> Result<EntraToken, AzureError> {
        let party = identity.party();
        let client = match identity.proof {
            Proof::Machine { .. } => metadata_client()?,
            _ => self.http.client(&party).await?,
        };
        let exchange = Arc::new(Exchange {
            client,
            party: party.clone(),
            proof: ProofKind::of(&identity.proof),
            failure: Mutex::default(),
        });
        let credential = self.credential(identity, &party, exchange.clone()).await?;
        let scopes = [identity.scope.as_str()];
        match credential.get_token(&scopes, None).await {
            Ok(AccessToken { token, expires_on }) => {
                let life = (expires_on - OffsetDateTime::now_utc()).whole_seconds();
                let life = Duration::from_secs(u64::try_from(life).unwrap_or_default());
                Ok(EntraToken { secret: Password::new(token.secret().to_owned()), life })
            }
            // The text of azure_identity may hold the answer and stays out.
            Err(_) => Err(exchange.failure()),
        }
    }

    async fn credential(
        &self,
        identity: &Identity,
        party: &Party,
        exchange: Arc<Exchange>,
    ) -> Result<Arc<dyn TokenCredential>, AzureError> {
        let client_options = client_options(identity, exchange);
        let built: azure_core::Result<Arc<dyn TokenCredential>> = match &identity.proof {
            Proof::Secret { application: Application { tenant, client }, secret } => {
                let options = ClientSecretCredentialOptions { client_options };
                ClientSecretCredential::new(
                    tenant,
                    client.clone(),
                    Secret::new(secret.expose().to_owned()),
                    Some(options),
                )
                .map(|credential| credential as _)
            }
            Proof::Certificate { application, certificate } => {
                if certificate.not_after() <= self.clock.now() {
                    let reason = format!(
                        "the certificate of application {} expired on {}: make a new one, upload it to the application \
                         and store it",
                        application.client,
                        certificate.not_after()
                    );
                    return Err(AzureError::new(AzureErrorKind::File { reason }, party.clone()));
                }
                let audience = format!("{}{}/oauth2/v2.0/token", identity.authority, application.tenant);
                let assertion = certificate.assertion(application, &audience, self.clock.now()).ok_or_else(|| {
                    let reason = "signing with the key of the certificate failed";
                    AzureError::new(AzureErrorKind::Internal { reason }, party.clone())
                })?;
                assertion_credential(application, assertion, client_options)
            }
            Proof::FederatedToken { application, token_file } => {
                let token = read_line(token_file).await.map_err(|error| {
                    let reason = format!("the federated token cannot be used: {error}");
                    AzureError::new(AzureErrorKind::File { reason }, party.clone())
                })?;
                assertion_credential(application, token, client_options)
            }
            Proof::Machine { client } => {
                let options = ManagedIdentityCredentialOptions {
                    user_assigned_id: client.clone().map(UserAssignedId::ClientId),
                    client_options,
                };
                ManagedIdentityCredential::new(Some(options)).map(|credential| credential as _)
            }
        };
        built.map_err(|_| {
            let reason = "tenant, client id or authority cannot be used";
            AzureError::new(AzureErrorKind::Internal { reason }, party.clone())
        })
    }
}

fn assertion_credential(
    application: &Application,
    assertion: String,
    client_options: ClientOptions,
) -> azure_core::Result<Arc<dyn TokenCredential>> {
    let options = ClientAssertionCredentialOptions { client_options };
    ClientAssertionCredential::new(
        application.tenant.clone(),
        application.client.clone(),
        Assertion(assertion),
        Some(options),
    )
    .map(|credential| credential as _)
}

fn client_options(identity: &Identity, exchange: Arc<Exchange>) -> ClientOptions {
    let mut cloud = CustomConfiguration::default();
    cloud.authority_host = identity.authority.to_string();
    ClientOptions {
        cloud: Some(Arc::new(CloudConfiguration::Custom(cloud))),
        transport: Some(Transport::new(exchange)),
        retry: RetryOptions::none(),
        ..ClientOptions::default()
    }
}

/// An assertion that was made for this one sign-in.
struct Assertion(String);

impl fmt::Debug for Assertion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Assertion(..)")
    }
}

#[async_trait::async_trait]
impl ClientAssertion for Assertion {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.0.clone())
    }
}

/// What an identity showed, since the same code of Entra means something else for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProofKind {
    Secret,
    Certificate,
    FederatedToken,
    Machine,
}

impl ProofKind {
    fn of(proof: &Proof) -> Self {
        match proof {
            Proof::Secret { .. } => Self::Secret,
            Proof::Certificate { .. } => Self::Certificate,
            Proof::FederatedToken { .. } => Self::FederatedToken,
            Proof::Machine { .. } => Self::Machine,
        }
    }
}

/// The transport of one sign-in: sends what `azure_identity` wants sent, and keeps the failure it would lose.
#[derive(Debug)]
struct Exchange {
    client: reqwest::Client,
    party: Party,
    proof: ProofKind,
    failure: Mutex<Option<AzureError>>,
}

impl Exchange {
    /// What went wrong; without a failure of ours the answer was not what Entra answers.
    fn failure(&self) -> AzureError {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .unwrap_or_else(|| AzureError::new(AzureErrorKind::NotTheService { html: false }, self.party.clone()))
    }

    /// Keeps the failure. The kind of the error is one that `azure_core` never retries, whatever the credential's own retry
    /// options say: our back-off decides.
    fn fail(&self, error: AzureError) -> azure_core::Error {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        azure_core::Error::with_message(azure_core::error::ErrorKind::Credential, "see the recorded failure")
    }
}

#[async_trait::async_trait]
impl HttpClient for Exchange {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let method = reqwest::Method::from_bytes(request.method().as_ref().as_bytes()).unwrap_or_default();
        let mut outgoing = self.client.request(method, request.url().clone());
        for (name, value) in request.headers().iter() {
            outgoing = outgoing.header(name.as_str(), value.as_str());
        }
        if let Body::Bytes(bytes) = request.body() {
            outgoing = outgoing.body(bytes.clone());
        }
        let answer = match Answer::to(outgoing, &self.party).await {
            Ok(answer) => answer,
            Err(error) if self.proof == ProofKind::Machine => {
                let error = AzureError { kind: AzureErrorKind::NoManagedIdentity, ..error };
                return Err(self.fail(error));
            }
            Err(error) => return Err(self.fail(error)),
        };
        if let Some(error) = refusal::of(&answer, &self.party, self.proof) {
            return Err(self.fail(error));
        }
        let headers: Headers = answer
            .headers
            .iter()
            .filter_map(|(name, value)| {
                let value = HeaderValue::from(value.to_str().ok()?.to_owned());
                Some((HeaderName::from(name.as_str().to_owned()), value))
            })
            .collect::<std::collections::HashMap<_, _>>()
            .into();
        Ok(AsyncRawResponse::from_bytes(answer.status.as_u16().into(), headers, answer.body))
    }
}
