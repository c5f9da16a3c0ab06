//! Entra: the token endpoint of a tenant.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::json;

use crate::{
    Clock, TENANT, assertion,
    fault::{Fault, Faults, Seen, happen},
    lock,
    token::{parts, random},
};

/// Entra. Cheap to clone.
#[derive(Clone)]
pub struct Entra(Arc<Shared>);

struct Shared {
    clock: Clock,
    state: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    address: String,
    applications: HashMap<String, App>,
    tokens: HashMap<String, Issued>,
    token_life: Duration,
    plain_descriptions: bool,
    faults: Faults,
    seen: Vec<Seen>,
}

#[derive(Clone, Default)]
struct App {
    tenant: String,
    secrets: Vec<(String, SecretState)>,
    certificates: Vec<Vec<u8>>,
    federated_tokens: Vec<String>,
    disabled: bool,
    faults: Faults,
}

/// A token that was given out.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) tenant: String,
    pub(crate) client: String,
    pub(crate) scope: String,
    pub(crate) expires_at: i64,
}

/// Whether a secret is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretState {
    /// It is.
    Valid,
    /// Its time is over.
    Expired,
    /// Somebody deleted it.
    Revoked,
}

impl std::fmt::Debug for Entra {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Entra")
    }
}

impl Entra {
    pub(crate) fn new(clock: Clock) -> Self {
        let known = Known { token_life: Duration::from_secs(3599), ..Known::default() };
        Self(Arc::new(Shared { clock, state: Mutex::new(known) }))
    }

    pub(crate) fn listens_at(&self, address: String) {
        lock(&self.0.state).address = address;
    }

    /// The application of this id in [`TENANT`]; made when there is none.
    pub fn application(&self, client: &str) -> Application {
        let application = App { tenant: TENANT.to_owned(), ..App::default() };
        lock(&self.0.state).applications.entry(client.to_owned()).or_insert(application);
        Application { entra: self.clone(), client: client.to_owned() }
    }

    /// How long tokens are good from now on. Default an hour less a second.
    pub fn set_token_life(&self, life: Duration) {
        lock(&self.0.state).token_life = life;
    }

    /// Writes descriptions of errors in one line, without escapes in the JSON.
    pub fn use_plain_descriptions(&self) {
        lock(&self.0.state).plain_descriptions = true;
    }

    /// Has the next request meet this fault, after those asked for before.
    pub fn fail_next(&self, fault: Fault) {
        lock(&self.0.state).faults.push(fault);
    }

    /// Has every request meet this fault; `None` ends it.
    pub fn fail_always(&self, fault: Option<Fault>) {
        lock(&self.0.state).faults.set(fault);
    }

    /// What was requested, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.0.state).seen.clone()
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        lock(&self.0.state).seen.len()
    }

    /// The token's owner, while it is good.
    pub(crate) fn owner(&self, token: &str) -> Option<Issued> {
        let now = (self.0.clock)().as_second();
        lock(&self.0.state).tokens.get(token).filter(|issued| issued.expires_at > now).cloned()
    }

    /// Registries check passwords of service principals here.
    pub(crate) fn accepts_secret(&self, client: &str, secret: &str) -> bool {
        lock(&self.0.state).applications.get(client).is_some_and(|application| {
            application.secrets.iter().any(|(known, state)| known == secret && *state == SecretState::Valid)
        })
    }
}

/// An application that tests set up.
#[derive(Clone, Debug)]
pub struct Application {
    entra: Entra,
    client: String,
}

impl Application {
    /// Adds a secret next to those there are.
    pub fn add_secret(&self, secret: &str) -> &Self {
        self.change(|application| application.secrets.push((secret.to_owned(), SecretState::Valid)))
    }

    /// Changes whether a secret is accepted.
    pub fn set_secret(&self, secret: &str, state: SecretState) -> &Self {
        self.change(|application| {
            for (known, current) in &mut application.secrets {
                if known == secret {
                    *current = state;
                }
            }
        })
    }

    /// Adds a certificate (DER).
    pub fn add_certificate(&self, certificate: &[u8]) -> &Self {
        self.change(|application| application.certificates.push(certificate.to_vec()))
    }

    /// Trusts a token of somebody else.
    pub fn trust_token(&self, token: &str) -> &Self {
        self.change(|application| application.federated_tokens.push(token.to_owned()))
    }

    /// Trusts no token of anybody else any more.
    pub fn distrust_tokens(&self) -> &Self {
        self.change(|application| application.federated_tokens.clear())
    }

    /// Disables the application.
    pub fn disable(&self) -> &Self {
        self.change(|application| application.disabled = true)
    }

    /// Has every sign-in of this application meet this fault; `None` ends it.
    pub fn fail_always(&self, fault: Option<Fault>) -> &Self {
        self.change(|application| application.faults.set(fault))
    }

    fn change(&self, change: impl FnOnce(&mut App)) -> &Self {
        if let Some(application) = lock(&self.entra.0.state).applications.get_mut(&self.client) {
            change(application);
        }
        self
    }
}

pub(crate) fn router(entra: Entra) -> Router {
    Router::new().route("/{tenant}/oauth2/v2.0/token", post(token)).with_state(entra)
}

async fn token(State(entra): State<Entra>, Path(tenant): Path<String>, uri: Uri, body: Bytes) -> Response {
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&body).into_owned().collect();
    let seen = Seen { path: uri.to_string(), form, authorization: None };
    let fault = {
        let mut known = lock(&entra.0.state);
        known.seen.push(seen.clone());
        let client = seen.field("client_id").unwrap_or_default();
        let own = known.applications.get_mut(client).and_then(|application| application.faults.take());
        own.or_else(|| known.faults.take())
    };
    if let Some(answer) = happen(fault).await {
        return answer;
    }
    let now = (entra.0.clock)().as_second();
    let mut known = lock(&entra.0.state);
    match known.authenticate(&tenant, &seen, now) {
        Ok(client) => {
            let token = random("entra-token-");
            let life = i64::try_from(known.token_life.as_secs()).unwrap_or(i64::MAX);
            let scope = seen.field("scope").unwrap_or_default().to_owned();
            known.tokens.insert(token.clone(), Issued { tenant, client, scope, expires_at: now + life });
            let body = json!({
                "token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "access_token": token,
            });
            json_answer(StatusCode::OK, body.to_string())
        }
        Err(refusal) => refusal.answer(known.plain_descriptions),
    }
}

impl Known {
    fn authenticate(&self, tenant: &str, request: &Seen, now: i64) -> Result<String, Refusal> {
        if request.field("grant_type") != Some("client_credentials") {
            return Err(Refusal(400, "unsupported_grant_type", 70_003, "The grant type isn't supported."));
        }
        if !request.field("scope").unwrap_or_default().ends_with("/.default") {
            return Err(Refusal(400, "invalid_scope", 1_002_012, "The provided value for scope is not valid."));
        }
        if !self.applications.values().any(|application| application.tenant == tenant) {
            let text = "Tenant not found. Check to make sure you have the correct tenant ID.";
            return Err(Refusal(400, "invalid_request", 90_002, text));
        }
        let client = request.field("client_id").unwrap_or_default();
        let application = self
            .applications
            .get(client)
            .filter(|application| application.tenant == tenant)
            .ok_or(Refusal(400, "unauthorized_client", 700_016, "Application was not found in the directory."))?;
        if application.disabled {
            return Err(Refusal(401, "unauthorized_client", 7_000_112, "Application is disabled."));
        }
        match (request.field("client_secret"), request.field("client_assertion")) {
            (Some(secret), None) => application.check_secret(secret)?,
            (None, Some(assertion)) => {
                let audience = format!("{}/{tenant}/oauth2/v2.0/token", self.address);
                application.check_assertion(assertion, client, &audience, now)?;
            }
            _ => return Err(Refusal(401, "invalid_client", 7_000_218, "The request body must contain one proof.")),
        }
        Ok(client.to_owned())
    }
}

impl App {
    fn check_secret(&self, secret: &str) -> Result<(), Refusal> {
        match self.secrets.iter().find(|(known, _)| known == secret) {
            Some((_, SecretState::Valid)) => Ok(()),
            Some((_, SecretState::Expired)) => {
                Err(Refusal(401, "invalid_client", 7_000_222, "The provided client secret keys for app are expired."))
            }
            _ => Err(Refusal(401, "invalid_client", 7_000_215, "Invalid client secret provided.")),
        }
    }

    fn check_assertion(&self, token: &str, client: &str, audience: &str, now: i64) -> Result<(), Refusal> {
        let signed_by_certificate = parts(token).is_some_and(|(header, _)| header.get("x5t#S256").is_some());
        if signed_by_certificate {
            return assertion::verify(token, client, audience, &self.certificates, now)
                .map_err(|code| Refusal(401, "invalid_client", code, "Client assertion is not valid."));
        }
        if self.federated_tokens.iter().any(|known| known == token) {
            return Ok(());
        }
        let text = "No matching federated identity record found for presented assertion subject.";
        Err(Refusal(401, "invalid_client", 700_213, text))
    }
}

/// Status, `error`, code, and the first sentence of the description.
#[derive(Debug)]
struct Refusal(u16, &'static str, u32, &'static str);

impl Refusal {
    /// The body as documented. The lines of the description are parted by `\r\n`, which JSON escapes.
    fn answer(&self, plain: bool) -> Response {
        let Self(status, error, code, text) = self;
        let (trace, correlation) = ("0f9c3a7e-1b2c-4d5e-8f90-a1b2c3d4e5f6", "fb3d2015-bc17-4bb9-bb85-30c5cf1aaaa7");
        let (line, quote) = if plain { (" ", "'") } else { ("\r\n", "\"") };
        let description = format!(
            "AADSTS{code}: {text} See {quote}docs{quote}.{line}Trace ID: {trace}{line}Correlation ID: {correlation}{line}\
             Timestamp: 2026-11-24 02:02:12Z"
        );
        let body = json!({
            "error": error, "error_description": description, "error_codes": [code],
            "timestamp": "2026-11-24 02:02:12Z", "trace_id": trace, "correlation_id": correlation,
            "error_uri": format!("https://login.microsoftonline.com/error?code={code}"),
        });
        json_answer(StatusCode::from_u16(*status).unwrap_or_default(), body.to_string())
    }
}

pub(crate) fn json_answer(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response()
}
