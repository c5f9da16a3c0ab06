//! Every way to prove an identity.

use acr_pull_injector::admission::CredentialSource as _;
use fake_azure::TENANT;

use crate::world::{CLIENT, World};

const CERTIFICATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/certificates");

fn upload_certificate(world: &World) {
    let pem = std::fs::read_to_string(format!("{CERTIFICATES}/cert.pem")).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, base64).unwrap();
    world.fake.entra().application(CLIENT).add_certificate(&der);
}

fn certificate_credential(file: &str) -> String {
    format!(
        "servicePrincipal: {{tenantId: {TENANT}, clientId: {CLIENT}, clientCertificateFile: '{CERTIFICATES}/{file}', \
         delivery: token}}"
    )
}

#[tokio::test]
async fn a_certificate_signs_in() {
    let world = World::start().await;
    upload_certificate(&world);
    let hosts = [world.fake.login_server("contoso")];
    for file in ["combined.pem", "no-password.pfx"] {
        let credentials = world.credentials_of(&world.configuration_of(&hosts, &certificate_credential(file))).await;
        let credential = world.credential(&credentials).await.unwrap();
        assert!(world.fake.registry("contoso").accepts(&credential.username, credential.password.expose()), "{file}");
        // notAfter of the fixture: Oct 31 08:19:32 2126 GMT.
        let end = world.metric("service_principal_credential_expiry_timestamp_seconds{registry=\"contoso\"}");
        assert_eq!(end, Some(4_949_108_372.0), "{file}");
        world.metrics.registry_removed("contoso");
    }
    let sign_in = world.fake.entra().seen().pop().unwrap();
    assert_eq!(sign_in.field("client_secret"), None);
}

#[tokio::test]
async fn a_certificate_that_is_not_uploaded_is_named() {
    let world = World::start().await;
    let hosts = [world.fake.login_server("contoso")];
    let credentials =
        world.credentials_of(&world.configuration_of(&hosts, &certificate_credential("combined.pem"))).await;
    let error = world.credential(&credentials).await.unwrap_err().to_string();
    assert!(error.contains("upload this certificate") && error.contains("AADSTS700027"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_expired_is_named_without_asking_azure() {
    let world = World::start().await;
    upload_certificate(&world);
    let hosts = [world.fake.login_server("contoso")];
    let credentials =
        world.credentials_of(&world.configuration_of(&hosts, &certificate_credential("combined.pem"))).await;
    world.advance(200 * 365 * 86_400);
    let error = world.credential(&credentials).await.unwrap_err().to_string();
    assert!(error.contains("expired on 21"), "{error}");
    assert_eq!(world.fake.entra().requests(), 0);
}

#[tokio::test]
async fn a_file_that_is_no_certificate_is_named() {
    let world = World::start().await;
    let hosts = [world.fake.login_server("contoso")];
    for (file, expected) in [
        ("cert.pem", "holds no private key"),
        ("modern.pfx", "clientCertificatePasswordFile does not hold its password"),
        ("missing.pem", "does not exist"),
    ] {
        let credentials = world.credentials_of(&world.configuration_of(&hosts, &certificate_credential(file))).await;
        let error = world.credential(&credentials).await.unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_federated_token_signs_in_and_may_change_at_any_time() {
    let world = World::start().await;
    let file = world.fake.directory().join("token");
    let hosts = [world.fake.login_server("contoso")];
    let credential =
        format!("workloadIdentity: {{tenantId: {TENANT}, clientId: {CLIENT}, tokenFile: '{}'}}", file.display());
    let application = world.fake.entra().application(CLIENT);

    std::fs::write(&file, "service.account.token-1").unwrap();
    let credentials = world.credentials_of(&world.configuration_of(&hosts, &credential)).await;
    let source = credentials.source(&"contoso".parse().unwrap());
    let error = world.credential(&credentials).await.unwrap_err().to_string();
    assert!(error.contains("system:serviceaccount:<namespace>:<name>") && error.contains("AADSTS700213"), "{error}");

    std::fs::write(&file, "service.account.token-2").unwrap();
    application.trust_token("service.account.token-2");
    assert!(!credentials.reread().await, "a fresh token is no change of the credential");
    world.credential(&credentials).await.expect("the fresh token is tried at once, back-off or not");
    assert_eq!(credentials.source(&"contoso".parse().unwrap()), source);

    std::fs::write(&file, "service.account.token-3").unwrap();
    application.distrust_tokens().trust_token("service.account.token-3");
    world.advance(100 * 60);
    credentials.renew_due().await;
    let renewed = "credential_refreshes_total{registry=\"contoso\",outcome=\"renewed\"}";
    assert_eq!(world.metric(renewed), Some(2.0), "the file is read for every sign-in, without a poll");
    let assertion = world.fake.entra().seen().pop().unwrap();
    assert_eq!(assertion.field("client_assertion"), Some("service.account.token-3"));
}

#[tokio::test]
async fn tenant_and_client_come_from_files_too() {
    let world = World::start().await;
    let directory = world.fake.directory();
    std::fs::write(directory.join("tenantId"), format!("{TENANT}\n")).unwrap();
    std::fs::write(directory.join("clientId"), CLIENT).unwrap();
    let credential = format!(
        "servicePrincipal: {{tenantIdFile: '{0}/tenantId', clientIdFile: '{0}/clientId', clientSecretFile: \
         '{0}/clientSecret', delivery: token}}",
        directory.display()
    );
    let hosts = [world.fake.login_server("contoso")];
    let credentials = world.credentials_of(&world.configuration_of(&hosts, &credential)).await;
    world.credential(&credentials).await.unwrap();
    // A secret under the wrong key must not come back in an error, which whoever creates a pod reads.
    for (file, right, expected) in
        [("tenantId", TENANT, "does not hold a tenant"), ("clientId", CLIENT, "does not hold an application id")]
    {
        for wrong in ["../../elsewhere", "abc8Q~d0_-secret.of-the-application", "shortsecret"] {
            std::fs::write(directory.join(file), wrong).unwrap();
            let credentials = world.credentials_of(&world.configuration_of(&hosts, &credential)).await;
            let error = world.credential(&credentials).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(expected) && text.contains(&format!("/{file} ")), "{text}");
            assert!(!format!("{text} {error:?} {credentials:?}").contains(wrong), "{text}");
        }
        std::fs::write(directory.join(file), right).unwrap();
    }
}

#[tokio::test]
async fn a_managed_identity_elsewhere_fails_soon_and_says_so() {
    let world = World::start().await;
    let hosts = [world.fake.login_server("contoso")];
    let credentials = world.credentials_of(&world.configuration_of(&hosts, "managedIdentity: {}")).await;
    let started = std::time::Instant::now();
    let error = world.credential(&credentials).await.unwrap_err().to_string();
    assert!(error.contains("only on Azure machines"), "{error}");
    assert!(started.elapsed().as_secs() < 20, "one attempt, not the minutes that azure_identity would take");
}
