//! No secret and no token in what is logged or printed, at any level.

use fake_azure::{Fault, SecretState, TENANT};

use crate::world::{CLIENT, SECRET, World, logged};

#[tokio::test]
async fn nothing_leaks_at_trace_level() {
    let world = World::start().await;
    let mut printed = Vec::new();
    let file = world.fake.directory().join("token");
    std::fs::write(&file, "federated.token.of-somebody").unwrap();
    world.fake.entra().application(CLIENT).trust_token("federated.token.of-somebody");
    let federated =
        format!("workloadIdentity: {{tenantId: {TENANT}, clientId: {CLIENT}, tokenFile: '{}'}}", file.display());
    let stored =
        format!("servicePrincipal: {{clientId: {CLIENT}, clientSecretFile: '{}'}}", world.secret_file().display());
    let hosts = [world.fake.login_server("contoso")];
    let mut secrets = vec![SECRET.to_owned(), "federated.token.of-somebody".to_owned()];
    for credential in [world.secret_credential(), federated, stored] {
        let credentials = world.credentials_of(&world.configuration_of(&hosts, &credential)).await;
        credentials.renew_due().await;
        let credential = world.credential(&credentials).await.unwrap();
        printed.push(format!("{credentials:?} {credential:?}"));
        secrets.push(credential.password.expose().to_owned());
        world.advance(100 * 60);
        world.fake.registry("contoso").fail_next(Fault::html(403));
        credentials.renew_due().await;
        world.advance(300);
        credentials.renew_due().await;
        printed.push(format!("{credentials:?}"));
    }
    world.fake.entra().application(CLIENT).set_secret(SECRET, SecretState::Revoked);
    let credentials = world.credentials().await;
    let error = world.credential(&credentials).await.unwrap_err();
    printed.push(format!("{error} {error:?} {credentials:?}"));
    world.fake.go_away().await;
    let credentials = world.credentials().await;
    let error = world.credential(&credentials).await.unwrap_err();
    printed.push(format!("{error} {error:?} {credentials:?}"));

    for seen in world.fake.registry("contoso").seen() {
        secrets.extend(seen.field("access_token").map(str::to_owned));
    }
    assert!(secrets.len() >= 8, "the test looks for too little: {}", secrets.len());
    // Of all tests of this program, whichever ran so far.
    let logged = logged();
    for expected in ["registry token renewed", "could not be renewed", "TRACE"] {
        assert!(logged.contains(expected), "{expected:?} is not in the log, so it was not captured");
    }
    let printed = printed.concat();
    for secret in &secrets {
        let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        for text in [secret, &encoded] {
            assert!(!printed.contains(text.as_str()), "{text} was printed");
            let line = logged.lines().find(|line| line.contains(text.as_str()));
            assert_eq!(line, None, "{text} was logged");
        }
    }
}
