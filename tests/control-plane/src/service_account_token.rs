//! Tokens of ServiceAccounts, by the `TokenRequest` API.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};

/// Asks for a token that is good for `seconds` (600 at least), for the API server unless an audience is named.
pub(crate) async fn issue(
    client: &Client,
    namespace: &str,
    account: &str,
    audience: Option<&str>,
    seconds: i64,
) -> Result<String, kube::Error> {
    let spec = TokenRequestSpec {
        audiences: audience.map(str::to_owned).into_iter().collect(),
        expiration_seconds: Some(seconds),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let answer: TokenRequest = accounts.create_subresource("token", account, &PostParams::default(), &request).await?;
    Ok(answer.status.map(|status| status.token).unwrap_or_default())
}
