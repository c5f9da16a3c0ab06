//! What a container runtime does with a pull secret: asks the registry, follows its challenge, asks again.
//!
//! Source: <https://distribution.github.io/distribution/spec/auth/token/>.

use std::{collections::BTreeMap, sync::Arc};

use reqwest::{Method, StatusCode, header};
use serde::Deserialize;
use url::Url;

use super::{
    azure_error::{AzureError, AzureErrorKind, Party},
    exchange::{RegistryHost, refusal},
    http::{Answer, AzureHttp},
};
use crate::domain::{image::LoginServerRule, pull_secret::RegistryCredential};

/// Manifests and indexes of OCI and Docker: whatever an image may be.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Signs in at registries as a container runtime does.
#[derive(Clone, Debug)]
pub struct RegistryLogin {
    http: Arc<AzureHttp>,
    login_servers: LoginServerRule,
}

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    /// A token from this address.
    Bearer { realm: Url, parameters: Vec<(String, String)> },
    /// User name and password.
    Basic,
}

#[derive(Deserialize)]
struct Token {
    // Registries answer with the one, the other, or both.
    access_token: Option<String>,
    token: Option<String>,
}

impl RegistryLogin {
    /// Signs in over this HTTP client. A challenge may name another host only when it passes the login server rule.
    pub fn new(http: Arc<AzureHttp>, login_servers: LoginServerRule) -> Self {
        Self { http, login_servers }
    }

    /// Whether the registry accepts the credential.
    ///
    /// # Errors
    ///
    /// Says in words why not.
    pub async fn sign_in(&self, host: &RegistryHost, credential: &RegistryCredential) -> Result<(), AzureError> {
        let answer = self.ask(host, Method::GET, "v2/", credential).await?;
        if answer.status.is_success() { Ok(()) } else { Err(answer.error(refusal(&answer), &host.party())) }
    }

    /// Whether the credential pulls the manifest of an image.
    ///
    /// # Errors
    ///
    /// Says in words why not.
    pub async fn find_manifest(
        &self,
        host: &RegistryHost,
        repository: &str,
        tag_or_digest: &str,
        credential: &RegistryCredential,
    ) -> Result<(), AzureError> {
        let path = format!("v2/{repository}/manifests/{tag_or_digest}");
        let answer = self.ask(host, Method::HEAD, &path, credential).await?;
        match answer.status {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Err(answer.error(AzureErrorKind::ImageUnknown, &host.party())),
            _ => Err(answer.error(refusal(&answer), &host.party())),
        }
    }

    async fn ask(
        &self,
        host: &RegistryHost,
        method: Method,
        path: &str,
        credential: &RegistryCredential,
    ) -> Result<Answer, AzureError> {
        let party = host.party();
        let client = self.http.client(&party).await?;
        let request = || {
            client
                .request(method.clone(), format!("https://{}/{path}", host.as_str()))
                .header(header::ACCEPT, MANIFESTS)
        };
        let (username, password) = (&credential.username, credential.password.expose());
        let first = Answer::to(request(), &party).await?;
        if first.status != StatusCode::UNAUTHORIZED {
            return Ok(first);
        }
        let (realm, parameters) = match challenge(&first) {
            Some(Challenge::Basic) => {
                return Answer::to(request().basic_auth(username, Some(password)), &party).await;
            }
            Some(Challenge::Bearer { realm, parameters }) => (realm, parameters),
            None => return Err(first.error(AzureErrorKind::NotARegistry, &party)),
        };
        self.allow(&realm, host, &party)?;
        let mut address = realm;
        address.query_pairs_mut().extend_pairs(&parameters);
        let answer = Answer::to(client.get(address).basic_auth(username, Some(password)), &party).await?;
        if !answer.status.is_success() {
            return Err(answer.error(refusal(&answer), &party));
        }
        let token =
            serde_json::from_slice(&answer.body).ok().and_then(|Token { access_token, token }| access_token.or(token));
        let Some(token) = token else {
            return Err(answer.error(AzureErrorKind::NotTheService { html: answer.is_html() }, &party));
        };
        Answer::to(request().bearer_auth(token), &party).await
    }

    /// Whoever answers for a registry must not be able to send our credential elsewhere.
    fn allow(&self, realm: &Url, host: &RegistryHost, party: &Party) -> Result<(), AzureError> {
        let name = realm.host_str().unwrap_or_default();
        let realm_host = realm.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        let secure = realm.scheme() == "https" && realm.username().is_empty() && realm.password().is_none();
        let known = realm_host == host.as_str() || self.login_servers.parse(&realm_host).is_ok();
        if secure && known {
            return Ok(());
        }
        let realm = if secure { realm_host } else { format!("{}://{realm_host}", realm.scheme()) };
        Err(AzureError::new(AzureErrorKind::ForeignRealm { realm }, party.clone()))
    }
}

/// The challenge of an answer; a token is preferred to a password.
fn challenge(answer: &Answer) -> Option<Challenge> {
    let challenges = answer.headers.get_all(header::WWW_AUTHENTICATE);
    let challenges: Vec<_> = challenges.iter().filter_map(|value| parse_challenge(value.to_str().ok()?)).collect();
    let bearer = challenges.iter().position(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    challenges.into_iter().nth(bearer.unwrap_or(0))
}

fn parse_challenge(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or_else(|| (text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = BTreeMap::new();
    let mut rest = rest.trim();
    while let Some((name, value)) = rest.split_once('=') {
        let value = value.trim_start();
        let (value, tail) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_once(',').unwrap_or((value, "")),
        };
        parameters.insert(name.trim().to_ascii_lowercase(), value.to_owned());
        rest = tail.trim_start_matches([',', ' ']);
    }
    let realm = Url::parse(&parameters.remove("realm")?).ok()?;
    let parameters =
        ["service", "scope"].into_iter().filter_map(|name| Some((name.to_owned(), parameters.remove(name)?)));
    Some(Challenge::Bearer { realm, parameters: parameters.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let challenge = parse_challenge(
            r#"Bearer realm="https://contoso.azurecr.io/oauth2/token",service="contoso.azurecr.io",scope="repository:a,b:pull,push""#,
        );
        let Some(Challenge::Bearer { realm, parameters }) = challenge else { panic!("{challenge:?}") };
        assert_eq!(realm.as_str(), "https://contoso.azurecr.io/oauth2/token");
        let parameters: Vec<_> = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(parameters, [("service", "contoso.azurecr.io"), ("scope", "repository:a,b:pull,push")]);
        assert_eq!(parse_challenge("Basic realm=\"registry\""), Some(Challenge::Basic));
        assert_eq!(parse_challenge("basic"), Some(Challenge::Basic));
        for text in ["", "Negotiate", "Bearer", "Bearer realm=", "Bearer service=\"a\"", "Bearer realm=\"open"] {
            assert_eq!(parse_challenge(text), None, "{text}");
        }
    }

    #[test]
    fn a_credential_goes_to_login_servers_only() {
        let login = RegistryLogin::new(Arc::new(AzureHttp::new(None)), LoginServerRule::default());
        let contoso = LoginServerRule::default().parse("contoso.azurecr.io").unwrap();
        let host = RegistryHost::from(&contoso);
        let allowed = |realm: &str| login.allow(&Url::parse(realm).unwrap(), &host, &host.party());
        assert!(allowed("https://contoso.azurecr.io/oauth2/token").is_ok());
        for realm in [
            "http://contoso.azurecr.io/oauth2/token",
            "https://evil.example/oauth2/token",
            "https://contoso.azurecr.io.evil.example/",
            "https://contoso.azurecr.io@evil.example/",
            "https://10.0.0.1/token",
        ] {
            let error = allowed(realm).unwrap_err();
            assert!(matches!(error.kind, AzureErrorKind::ForeignRealm { .. }), "{realm}");
        }
    }
}
