//! The HTTP side of registries.

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{
    entra::json_answer,
    fault::{Seen, happen},
    registry::{NULL_USER, Registries, Registry},
};

pub(crate) fn router(registries: Registries) -> Router {
    Router::new().fallback(answer).with_state(registries)
}

async fn answer(State(registries): State<Registries>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let Some(registry) = registries.of_host(&host) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let authorization = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let seen = Seen {
        path: parts.uri.to_string(),
        form: url::form_urlencoded::parse(&body).into_owned().collect(),
        authorization: authorization.map(str::to_owned),
    };
    if let Some(answer) = happen(registry.record(seen.clone())).await {
        return answer;
    }
    if registry.is_closed() {
        let message = "client with IP '203.0.113.7' is not allowed access";
        return error(StatusCode::FORBIDDEN, "DENIED", message);
    }
    let call = Call { registry, host, seen, headers: parts.headers };
    match (parts.method, parts.uri.path()) {
        (Method::POST, "/oauth2/exchange") => call.exchange(),
        (Method::GET | Method::POST, "/oauth2/token") => call.token(parts.uri.query().unwrap_or_default()),
        (Method::GET, "/v2/") => call.base(),
        (Method::GET | Method::HEAD, path) => {
            match path.strip_prefix("/v2/").and_then(|path| path.split_once("/manifests/")) {
                Some((repository, tag_or_digest)) => call.manifest(repository, tag_or_digest),
                None => StatusCode::NOT_FOUND.into_response(),
            }
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

struct Call {
    registry: Registry,
    host: String,
    seen: Seen,
    headers: HeaderMap,
}

impl Call {
    fn exchange(&self) -> Response {
        if self.seen.field("grant_type") != Some("access_token") || self.seen.field("service") != Some(&self.host) {
            return error(StatusCode::BAD_REQUEST, "UNSUPPORTED", "grant_type or service is wrong");
        }
        let entra_token = self.seen.field("access_token").unwrap_or_default();
        match self.registry.exchange(entra_token, self.seen.field("tenant"), &self.host) {
            Some(token) => json_answer(StatusCode::OK, json!({"refresh_token": token}).to_string()),
            None => unauthorized(),
        }
    }

    /// By Basic authentication, or with a refresh token or user name and password in a form.
    fn token(&self, query: &str) -> Response {
        let field = |name: &str| {
            let form = self.seen.field(name).map(str::to_owned);
            form.or_else(|| {
                url::form_urlencoded::parse(query.as_bytes())
                    .find(|(key, _)| key == name)
                    .map(|(_, value)| value.into())
            })
        };
        let pair = match field("grant_type").as_deref() {
            Some("refresh_token") => field("refresh_token").map(|token| (NULL_USER.to_owned(), token)),
            Some("password") => field("username").zip(field("password")),
            _ => self.basic(),
        };
        let service_fits = field("service").as_deref() == Some(&self.host);
        match pair {
            Some((username, password)) if service_fits && self.registry.accepts(&username, &password) => {
                let token = self.registry.issue_access_token(&self.host, &self.scopes(query));
                json_answer(StatusCode::OK, json!({"access_token": token}).to_string())
            }
            _ => unauthorized(),
        }
    }

    /// Each `scope` of the form and of the query.
    fn scopes(&self, query: &str) -> Vec<String> {
        let form = self.seen.form.iter().cloned();
        let all = form.chain(url::form_urlencoded::parse(query.as_bytes()).into_owned());
        all.filter(|(key, _)| key == "scope").map(|(_, value)| value).collect()
    }

    fn base(&self) -> Response {
        if self.has_access() { json_answer(StatusCode::OK, "{}".to_owned()) } else { self.challenge(None) }
    }

    fn manifest(&self, repository: &str, tag_or_digest: &str) -> Response {
        if !self.has_access() {
            return self.challenge(Some(&format!("repository:{repository}:pull")));
        }
        let accepted = self.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let manifest = "application/vnd.oci.image.index.v1+json";
        if self.registry.has_image(repository, tag_or_digest) && accepted.contains(manifest) {
            return (StatusCode::OK, [(header::CONTENT_TYPE, manifest)], "{}").into_response();
        }
        error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest tagged is not found")
    }

    fn challenge(&self, scope: Option<&str>) -> Response {
        let mut challenge = format!("Bearer realm=\"{}\",service=\"{}\"", self.registry.realm(&self.host), self.host);
        if let Some(scope) = scope {
            challenge = format!("{challenge},scope=\"{scope}\"");
        }
        let mut answer = unauthorized();
        if let Ok(challenge) = challenge.parse() {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        answer
    }

    fn has_access(&self) -> bool {
        let token = self.seen.authorization.as_deref().and_then(|value| value.strip_prefix("Bearer "));
        token.is_some_and(|token| self.registry.accepts_access_token(token))
    }

    fn basic(&self) -> Option<(String, String)> {
        let encoded = self.seen.authorization.as_deref()?.strip_prefix("Basic ")?;
        let pair = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        pair.split_once(':').map(|(username, password)| (username.to_owned(), password.to_owned()))
    }
}

fn unauthorized() -> Response {
    let message = "authentication required, visit https://aka.ms/acr/authorization for more information.";
    error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let body = json!({"errors": [{"code": code, "message": message}]});
    let mut answer = json_answer(status, body.to_string());
    let id = "5e0f1a2b-3c4d-4e5f-9a8b-7c6d5e4f3a2b".parse();
    if let Ok(id) = id {
        answer.headers_mut().insert("x-ms-correlation-request-id", id);
    }
    answer
}
