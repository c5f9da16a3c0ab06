//! Every refusal reaches the operator in words with a remedy.

use std::{sync::Arc, time::Duration};

use acr_pull_injector::{
    clock::Clock,
    config::AzureConfiguration,
    credentials::{
        azure_error::{AzureError, AzureErrorKind},
        entra::Entra,
        http::{AzureHttp, Timeouts},
        identity::{Application, Identity, Proof},
    },
    domain::pull_secret::Password,
};
use fake_azure::{Fault, SecretState, TENANT};

use crate::world::{CLIENT, SECRET, World, logged};

/// Says all of these, and none of what must not be repeated.
fn says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
    assert!(
        !error.contains(SECRET) && !error.contains("entra-token-") && !error.contains("https://contoso"),
        "{error}"
    );
}

#[tokio::test]
async fn an_expired_secret() {
    let world = World::start().await;
    world.fake.entra().application(CLIENT).set_secret(SECRET, SecretState::Expired);
    says(
        &world.refusal().await,
        &[
            "no credential for registry contoso: the secret of application",
            "has expired",
            "az ad app credential reset",
            "AADSTS7000222",
            "HTTP 401",
            "correlation id fb3d2015-bc17-4bb9-bb85-30c5cf1aaaa7",
        ],
    );
}

#[tokio::test]
async fn a_wrong_secret_with_and_without_escapes_in_the_answer() {
    for plain in [false, true] {
        let world = World::start().await;
        if plain {
            world.fake.entra().use_plain_descriptions();
        }
        world.store_secret("wrong");
        says(&world.refusal().await, &["does not know this secret", "the secret's value, not its id", "AADSTS7000215"]);
    }
}

#[tokio::test]
async fn an_unknown_application_or_tenant() {
    let world = World::start().await;
    let text = world.configuration();
    let credentials = world.credentials_of(&text.replace(CLIENT, "another-app")).await;
    let error = world.credential(&credentials).await.unwrap_err().to_string();
    says(&error, &["does not know application another-app", "not the object id", "AADSTS700016"]);
    let credentials = world.credentials_of(&text.replace(TENANT, "contoso.onmicrosoft.com")).await;
    let error = world.credential(&credentials).await.unwrap_err().to_string();
    says(&error, &["does not know tenant contoso.onmicrosoft.com", "azure.authorityHost", "AADSTS90002"]);
}

#[tokio::test]
async fn a_disabled_application() {
    let world = World::start().await;
    world.fake.entra().application(CLIENT).disable();
    says(&world.refusal().await, &["is disabled", "Enterprise applications", "AADSTS7000112"]);
}

#[tokio::test]
async fn a_missing_role_and_a_firewall() {
    let world = World::start().await;
    let host = world.fake.login_server("contoso");
    world.fake.registry("contoso").withdraw(CLIENT);
    says(
        &world.refusal().await,
        &[&host, "AcrPull", "Container Registry Repository Reader", "HTTP 401", "correlation id 5e0f1a2b"],
    );
    world.fake.registry("contoso").set_firewall(true);
    says(&world.refusal().await, &[&host, "networking settings", "private endpoint", "HTTP 403"]);
}

#[tokio::test]
async fn throttling_and_faults_of_azure() {
    let world = World::start().await;
    world.fake.entra().fail_next(Fault::throttled("7"));
    says(&world.refusal().await, &["Entra throttles", "nothing has to be done", "HTTP 429", "asked to wait 7 s"]);
    world.fake.registry("contoso").fail_next(Fault::throttled("Wed, 21 Oct 2099 07:28:00 GMT"));
    says(&world.refusal().await, &["throttles requests", "HTTP 429", "asked to wait 3600 s"]);
    world.fake.entra().fail_next(Fault::html(503));
    says(&world.refusal().await, &["login.localhost", "has a fault", "HTTP 503"]);
    world.fake.registry("contoso").fail_next(Fault::json(500, "{}"));
    says(&world.refusal().await, &["contoso.localhost", "has a fault", "HTTP 500"]);
}

#[tokio::test]
async fn answers_of_somebody_else() {
    let world = World::start().await;
    let registry = world.fake.registry("contoso");
    for status in [200, 403, 407] {
        world.fake.entra().fail_next(Fault::html(status));
        let error = world.refusal().await;
        says(&error, &["login.localhost", "proxy", &format!("HTTP {status}")]);
        registry.fail_next(Fault::html(status));
        let error = world.refusal().await;
        says(&error, &["contoso.localhost", "proxy", &format!("HTTP {status}")]);
    }
    world.fake.entra().fail_next(Fault::json(200, "{}"));
    says(&world.refusal().await, &["answers with something unexpected"]);
    registry.fail_next(Fault::json(200, "{}"));
    says(&world.refusal().await, &["answers with something unexpected"]);
    registry.fail_next(Fault::json(404, "{}"));
    says(&world.refusal().await, &["no registry that exchanges tokens", "HTTP 404"]);
    registry.fail_next(Fault::json(200, format!("{{\"filler\": \"{}\"}}", "x".repeat(300_000))));
    says(&world.refusal().await, &["answers with something unexpected"]);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let world = World::start().await;
    world.fake.registry("evil");
    let elsewhere = format!("https://{}/oauth2/exchange", world.fake.login_server("evil"));
    world.fake.registry("contoso").fail_next(Fault::redirect(&elsewhere));
    says(&world.refusal().await, &["contoso.localhost", "redirect, which is never followed", "HTTP 307"]);
    world.fake.entra().fail_next(Fault::redirect(&elsewhere));
    says(&world.refusal().await, &["login.localhost", "redirect, which is never followed", "HTTP 307"]);
    assert!(world.fake.registry("evil").seen().is_empty(), "somebody else was sent a credential");
}

#[tokio::test]
async fn a_token_whose_life_cannot_be_right() {
    let world = World::start().await;
    let registry = world.fake.registry("contoso");
    registry.set_token_life(Duration::from_secs(20));
    says(&world.refusal().await, &["lives for less than a minute", "it is not used"]);
    registry.set_token_life(Duration::from_secs(10 * 365 * 86_400));
    says(&world.refusal().await, &["lives for more than a year"]);
    registry.fail_next(Fault::json(200, r#"{"refresh_token": "opaque"}"#));
    says(&world.refusal().await, &["without a readable time of expiry"]);
    registry.set_token_life(Duration::from_secs(10_800));
    world.fake.entra().set_token_life(Duration::from_secs(5));
    says(&world.refusal().await, &["login.localhost", "lives for less than a minute"]);
}

/// Answers that look like success.
#[tokio::test]
async fn a_success_that_is_none() {
    let world = World::start().await;
    let huge = i64::MAX.to_string();
    let least = i64::MIN.to_string();
    let beyond = "9".repeat(30);
    for (expires_in, expected) in [
        ("0", "less than a minute"),
        ("-1", "less than a minute"),
        (least.as_str(), "less than a minute"),
        (huge.as_str(), "more than a year"),
        ("100000000000", "more than a year"),
        (beyond.as_str(), "something unexpected"),
        ("\"3599\"", "something unexpected"),
        ("null", "something unexpected"),
    ] {
        let body =
            format!(r#"{{"access_token":"entra-token-of-a-test","token_type":"Bearer","expires_in":{expires_in}}}"#);
        world.fake.entra().fail_next(Fault::json(200, body));
        says(&world.refusal().await, &["login.localhost", expected]);
    }
    for (body, expected) in [
        (r#"{"access_token":"entra-token-of-a-test"}"#, "less than a minute"),
        (r#"{"access_token":"","expires_in":3599}"#, "something unexpected"),
        (r#"{"access_token":null,"expires_in":3599}"#, "something unexpected"),
        (r#"{"access_token":["entra-token-of-a-test"],"expires_in":3599}"#, "something unexpected"),
        (r#""entra-token-of-a-test""#, "something unexpected"),
    ] {
        world.fake.entra().fail_next(Fault::json(200, body));
        says(&world.refusal().await, &["login.localhost", expected]);
    }
    for (body, expected) in [
        (r#"{"refresh_token":""}"#, "without a readable time of expiry"),
        (r#"{"refresh_token":"entra-token-of-a-test"}"#, "without a readable time of expiry"),
        (r#"{"refresh_token":{"entra-token-of-a-test":1}}"#, "something unexpected"),
        ("entra-token-of-a-test", "something unexpected"),
    ] {
        world.fake.registry("contoso").fail_next(Fault::json(200, body));
        says(&world.refusal().await, &["contoso.localhost", expected]);
    }
    assert!(!logged().contains("entra-token-of-a-test"), "a part of an answer was logged");
}

#[tokio::test]
async fn the_network() {
    let world = World::start().await;
    let text = world.configuration();
    let refusal = async |text: String| {
        let credentials = world.credentials_of(&text).await;
        world.credential(&credentials).await.unwrap_err().to_string()
    };
    let untrusted = text.replace(&format!("caFile: '{}', ", world.fake.ca_file().display()), "");
    assert_ne!(untrusted, text);
    says(
        &refusal(untrusted).await,
        &["TLS certificate of login.localhost", "UnknownIssuer", "azure.caFile", "SSL_CERT_FILE"],
    );
    let unknown = text.replace(&world.fake.authority_host(), "https://login.does-not-exist.invalid");
    says(&refusal(unknown).await, &["login.does-not-exist.invalid cannot be resolved", "azure.authorityHost"]);
    let missing = text.replace(world.fake.ca_file().to_str().unwrap(), "/does/not/exist.pem");
    says(&refusal(missing).await, &["azure.caFile /does/not/exist.pem cannot be read"]);
    let device = text.replace(world.fake.ca_file().to_str().unwrap(), "/dev/zero");
    says(&refusal(device).await, &["azure.caFile /dev/zero cannot be read: it is a directory, a pipe or a device"]);
    let empty = world.fake.directory().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let empty = text.replace(world.fake.ca_file().to_str().unwrap(), empty.to_str().unwrap());
    says(&refusal(empty).await, &["empty.pem holds no certificate"]);
    world.fake.go_away().await;
    says(&refusal(text).await, &["login.localhost", "refuses connections", "HTTPS_PROXY"]);
}

#[tokio::test]
async fn no_answer_in_time() {
    let world = World::start().await;
    world.fake.entra().fail_next(Fault::Hang);
    let error = sign_in(&world, secret()).await;
    assert_eq!(error.kind, AzureErrorKind::Timeout);
    says(&error.to_string(), &["login.localhost", "did not answer in time"]);
}

/// Answers from the documentation of the codes, each with what the operator is told.
#[tokio::test]
async fn codes_of_entra() {
    let world = World::start().await;
    let federated = || Proof::FederatedToken { application: application(), token_file: world.secret_file() };
    for (proof, status, code, expected) in [
        (secret(), 400, 50_012, "does not know this secret"),
        (secret(), 400, 900_023, "does not know tenant"),
        (secret(), 400, 7_000_229, "has a service principal in this tenant"),
        (secret(), 400, 500_011, "set azure.scope"),
        (secret(), 400, 70_011, "set azure.scope"),
        (secret(), 400, 1_002_012, "set azure.scope"),
        (secret(), 400, 53_003, "Conditional Access"),
        (secret(), 400, 50_196, "throttles"),
        (secret(), 400, 90_033, "has a fault"),
        (federated(), 400, 70_021, "no federated credential"),
        (federated(), 400, 700_211, "no federated credential"),
        (federated(), 401, 700_024, "the token file must be fresh"),
        (federated(), 401, 700_027, "the token file must be fresh"),
        (federated(), 400, 501_661, "issuer's discovery document"),
        (federated(), 400, 700_213, "no federated credential"),
        (federated(), 400, 70_025, "no federated credential"),
        (secret(), 401, 7_000_112, "is disabled"),
        (secret(), 400, 50_059, "does not know tenant"),
        (secret(), 400, 90_038, "azure.authorityHost"),
        (secret(), 400, 900_432, "azure.authorityHost"),
        (secret(), 400, 5_000_225, "is blocked"),
        (secret(), 400, 500_014, "disabled there"),
        (secret(), 400, 530_032, "Conditional Access"),
        (secret(), 403, 5_000_211, "tenant restrictions"),
        (secret(), 500, 90_033, "has a fault"),
        // Said of users only, but the link helps with any code.
        (secret(), 400, 50_034, "https://login.microsoftonline.com/error?code=50034"),
        (secret(), 400, 1_234_567, "https://login.microsoftonline.com/error?code=1234567"),
    ] {
        let body = format!(
            r#"{{"error":"invalid_request","error_description":"AADSTS{code}: A \"reason\".\r\nTrace ID: x","error_codes":[{code}]}}"#
        );
        world.fake.entra().fail_next(Fault::json(status, body));
        let error = sign_in(&world, proof).await;
        assert_eq!((error.status, error.entra_code), (Some(status), Some(code)));
        says(&error.to_string(), &[expected, &format!("AADSTS{code}")]);
    }
}

/// Answers of any form, as proxies, outages and older endpoints give them.
#[tokio::test]
async fn unusual_answers() {
    let world = World::start().await;
    for (status, body, expected) in [
        (400, r#"{"error":"unauthorized_client"}"#, ["(unauthorized_client)", "sign-in log"]),
        (400, r#"{"error":"invalid_client","error_codes":["7000222"]}"#, ["has expired", "AADSTS7000222"]),
        (400, r#"{"error":"invalid_grant","error_codes":[50000,7000215]}"#, ["does not know", "AADSTS7000215"]),
        (401, r#"{"error":"invalid_client","error_codes":null}"#, ["(invalid_client)", "HTTP 401"]),
        (
            400,
            r#"{"error":{"code":"x","message":"AADSTS90002: Tenant 'y' not found."}}"#,
            ["does not know", "AADSTS90002"],
        ),
        (
            400,
            r#"{"error":"interaction_required","suberror":"message_only","claims":"{\"access_token\":{}}"}"#,
            ["Conditional Access", "HTTP 400"],
        ),
        (400, r#"{"error":"temporarily_unavailable"}"#, ["has a fault", "asked again later"]),
        (
            503,
            r#"{"error":"server_error","error_description":"AADSTS7000222: a \u0022b\u0022"}"#,
            ["has expired", "HTTP 503"],
        ),
        (500, "<html>AADSTS90033</html>", ["has a fault", "AADSTS90033"]),
        (408, "", ["has a fault", "HTTP 408"]),
        (400, "", ["something unexpected", "HTTP 400"]),
        (401, "<html></html>", ["a web page", "HTTP 401"]),
        (403, "Forbidden", ["a firewall or proxy", "HTTP 403"]),
        (407, "<html></html>", ["does not let us through", "HTTP 407"]),
    ] {
        world.fake.entra().fail_next(Fault::json(status, body));
        says(&sign_in(&world, secret()).await.to_string(), &expected);
    }
    let late = vec![("retry-after", "Wed, 21 Oct 2099 07:28:00 GMT".to_owned())];
    world.fake.entra().fail_next(Fault::Answer { status: 503, headers: late, body: String::new() });
    says(&sign_in(&world, secret()).await.to_string(), &["has a fault", "asked to wait 300 s"]);
    let denied = r#"{"errors":[{"code":"DENIED","message":"client with IP '192.0.2.1' is not allowed access."}]}"#;
    for (status, body, expected) in [
        (403, denied, "networking settings"),
        (400, r#"{"errors":[{"code":"UNAUTHORIZED","message":"token validation failed"}]}"#, "azure.scope must be one"),
        (401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"token validation failed"}]}"#, "have the role AcrPull"),
        (401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#, "refused the credential"),
        (401, "", "AcrPull"),
        (408, "", "has a fault"),
        (503, "<html></html>", "has a fault"),
        (200, "", "something unexpected"),
        (200, r#"{"refresh_token":null}"#, "something unexpected"),
    ] {
        world.fake.registry("contoso").fail_next(Fault::json(status, body));
        says(&world.refusal().await, &[expected, &format!("HTTP {status}")]);
    }
}

fn application() -> Application {
    Application { tenant: TENANT.to_owned(), client: CLIENT.to_owned() }
}

fn secret() -> Proof {
    Proof::Secret { application: application(), secret: Password::new(SECRET.to_owned()) }
}

async fn sign_in(world: &World, proof: Proof) -> AzureError {
    let timeouts = Timeouts { connect: Duration::from_secs(5), total: Duration::from_secs(1) };
    let http = Arc::new(AzureHttp::with_timeouts(Some(world.fake.ca_file()), timeouts));
    let authority = world.fake.authority_host().parse().unwrap();
    let identity = Identity::new(proof, authority, AzureConfiguration::default().scope);
    Entra::new(http, Clock::system()).token(&identity).await.unwrap_err()
}
