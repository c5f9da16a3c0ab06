//! The exchange of a token of Entra for a refresh token of a registry.
//!
//! Source: <https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md>. The challenge of the registry is not asked for: the
//! address of the exchange follows from the login server alone, so that no answer can name another place.

use std::sync::Arc;

use jiff::Timestamp;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    azure_error::{AzureError, AzureErrorKind, Party},
    entra::EntraToken,
    http::{Answer, AzureHttp},
    token_lifetime::token_lifetime,
};
use crate::domain::{
    image::LoginServer,
    pull_secret::{Lifetime, Password},
};

/// The user name that goes with a refresh token.
pub const REFRESH_TOKEN_USERNAME: &str = "00000000-0000-0000-0000-000000000000";

/// A login server as the network knows it: host in lower case, with the port that was spelled. Two spellings of one login
/// server share their token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryHost(String);

impl RegistryHost {
    /// `host[:port]`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The registry as a party of an error.
    pub fn party(&self) -> Party {
        Party::Registry { login_server: self.0.clone() }
    }
}

impl From<&LoginServer> for RegistryHost {
    fn from(login_server: &LoginServer) -> Self {
        Self(login_server.as_str().to_ascii_lowercase())
    }
}

/// A refresh token of a registry: the password that goes with [`REFRESH_TOKEN_USERNAME`].
#[derive(Clone, Debug)]
pub struct RefreshToken {
    /// The token.
    pub secret: Password,
    /// How long it is good.
    pub lifetime: Lifetime,
}

#[derive(Serialize)]
struct Form<'a> {
    grant_type: &'static str,
    service: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    access_token: &'a str,
}

#[derive(Deserialize)]
struct Exchanged {
    refresh_token: String,
}

/// Exchanges tokens at registries.
#[derive(Clone, Debug)]
pub struct RegistryExchange {
    http: Arc<AzureHttp>,
}

impl RegistryExchange {
    /// Exchanges over this HTTP client.
    pub fn new(http: Arc<AzureHttp>) -> Self {
        Self { http }
    }

    /// Exchanges a token of Entra at a registry. The caller answers for it that the host may see the token: it passed the
    /// login server rule and a registry rule covers it.
    ///
    /// # Errors
    ///
    /// Says in words what the registry or the network has against it.
    pub async fn refresh_token(
        &self,
        host: &RegistryHost,
        tenant: Option<&str>,
        token: &EntraToken,
        now: Timestamp,
    ) -> Result<RefreshToken, AzureError> {
        let party = host.party();
        let form =
            Form { grant_type: "access_token", service: host.as_str(), tenant, access_token: token.secret.expose() };
        let client = self.http.client(&party).await?;
        let request = client.post(format!("https://{}/oauth2/exchange", host.as_str())).form(&form);
        let answer = Answer::to(request, &party).await?;
        if !answer.status.is_success() {
            return Err(answer.error(refusal(&answer), &party));
        }
        let Ok(Exchanged { refresh_token }) = serde_json::from_slice(&answer.body) else {
            return Err(answer.error(AzureErrorKind::NotTheService { html: answer.is_html() }, &party));
        };
        let lifetime = token_lifetime(&refresh_token, now)
            .map_err(|fault| answer.error(AzureErrorKind::TokenLifetime(fault), &party))?;
        Ok(RefreshToken { secret: Password::new(refresh_token), lifetime })
    }
}

/// What a registry says of a token for an audience that it does not take, such as that of Azure Resource Manager where the
/// registry has `azureADAuthenticationAsArmPolicy` disabled.
const TOKEN_INVALID: &[u8] = b"token validation failed";

/// What a registry means by a status other than success.
pub(super) fn refusal(answer: &Answer) -> AzureErrorKind {
    match answer.status {
        StatusCode::TOO_MANY_REQUESTS => AzureErrorKind::Throttled,
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => AzureErrorKind::Unavailable,
        status if status.is_redirection() => AzureErrorKind::Redirected,
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => AzureErrorKind::Proxy,
        _ if answer.is_html() => AzureErrorKind::NotTheService { html: true },
        StatusCode::FORBIDDEN => AzureErrorKind::Firewall,
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED if answer.says(TOKEN_INVALID) => {
            AzureErrorKind::TokenInvalid
        }
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED => AzureErrorKind::RegistryRefused,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => AzureErrorKind::NotARegistry,
        _ => AzureErrorKind::NotTheService { html: false },
    }
}
