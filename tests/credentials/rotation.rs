//! Secrets, certificates and configurations that change.

use acr_pull_injector::{admission::CredentialSource as _, config::Configuration};
use fake_azure::SecretState;

use crate::world::{CLIENT, SECRET, World};

#[tokio::test]
async fn a_rotation_with_overlap_is_not_noticed() {
    let world = World::start().await;
    let application = world.fake.entra().application(CLIENT);
    let credentials = world.credentials().await;
    let registry = "contoso".parse().unwrap();
    let (source, before) = (credentials.source(&registry).unwrap(), world.credential(&credentials).await.unwrap());
    assert_eq!(before.source, source);

    application.add_secret("second");
    world.store_secret("second\n");
    assert!(credentials.reread().await, "a changed secret must be announced");
    let changed = credentials.source(&registry).unwrap();
    assert_ne!(changed, source);
    let after = world.credential(&credentials).await.unwrap();
    assert_eq!(after.source, changed);
    assert_ne!(after.password, before.password);
    assert!(!credentials.reread().await);

    application.set_secret(SECRET, SecretState::Revoked);
    world.advance(100 * 60);
    credentials.renew_due().await;
    let renewed = world.credential(&credentials).await.unwrap();
    assert_ne!(renewed.password, after.password);
    assert_eq!(renewed.source, changed, "a renewal is no change of the credential");
    assert!(world.fake.entra().seen().last().unwrap().field("client_secret") == Some("second"));
}

#[tokio::test]
async fn a_wrong_secret_leaves_the_old_token_in_use() {
    let world = World::start().await;
    let credentials = world.credentials().await;
    let before = world.credential(&credentials).await.unwrap();
    for wrong in ["not-the-secret", "neither"] {
        world.store_secret(wrong);
        assert!(credentials.reread().await);
        assert_eq!(world.credential(&credentials).await.unwrap(), before);
    }
    world.advance(10_800);
    let error = world.credential(&credentials).await.unwrap_err().to_string();
    assert!(error.contains("does not know this secret") && error.contains("AADSTS7000215"), "{error}");
    world.store_secret(SECRET);
    assert!(credentials.reread().await);
    world.credential(&credentials).await.unwrap();
}

#[tokio::test]
async fn a_missing_secret_has_no_source_and_is_found_later() {
    let world = World::start().await;
    std::fs::remove_file(world.secret_file()).unwrap();
    let credentials = world.credentials().await;
    let registry = "contoso".parse().unwrap();
    assert_eq!(credentials.source(&registry), None);
    let error = world.credential(&credentials).await.unwrap_err().to_string();
    assert!(error.contains("clientSecret does not exist"), "{error}");
    world.store_secret(SECRET);
    assert!(credentials.reread().await);
    assert!(credentials.source(&registry).is_some());
    std::fs::remove_file(world.secret_file()).unwrap();
    assert!(!credentials.reread().await, "what was read stays in use");
    world.credential(&credentials).await.unwrap();
}

#[tokio::test]
async fn a_rule_that_is_gone_gives_nothing_and_is_not_renewed() {
    let world = World::start().await;
    let credentials = world.credentials().await;
    credentials.renew_due().await;
    credentials.configure(&Configuration::parse("").unwrap()).await;
    let error = world.credential(&credentials).await.unwrap_err().to_string();
    assert!(error.contains("contoso"), "{error}");
    assert_eq!(world.metric("registry_credential_expiry_timestamp_seconds{registry=\"contoso\"}"), None);
    let asked = world.fake.entra().requests();
    world.advance(200 * 60);
    credentials.renew_due().await;
    assert_eq!(world.fake.entra().requests(), asked);
}

/// A login server was left out of the rule, and then the secret changed.
#[tokio::test]
async fn a_token_that_nobody_needs_any_more_is_not_told_of() {
    let world = World::start().await;
    let hosts = ["contoso", "fabrikam"].map(|name| world.fake.login_server(name));
    world.fake.registry("fabrikam").grant(CLIENT);
    let credentials = world.credentials_of(&world.configuration_of(&hosts, &world.secret_credential())).await;
    for host in &hosts {
        world.credential_for(&credentials, host).await.unwrap();
    }
    credentials.configure(&Configuration::parse(&world.configuration()).unwrap()).await;
    world.advance(60);
    world.fake.entra().application(CLIENT).add_secret("second");
    world.store_secret("second\n");
    assert!(credentials.reread().await);
    for _ in 0..4 {
        credentials.renew_due().await;
        world.advance(60 * 60);
    }
    credentials.renew_due().await;
    let end = world.metric("registry_credential_expiry_timestamp_seconds{registry=\"contoso\"}");
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
    let now = world.now() as f64;
    assert!(end.is_some_and(|end| end > now), "{end:?}, and it is {now}");
}

#[tokio::test]
async fn a_ca_file_that_changes_is_read_again() {
    let world = World::start().await;
    let ca = world.fake.directory().join("trusted.pem");
    let stranger = fake_azure::FakeAzure::start().await;
    std::fs::write(&ca, stranger.ca_pem()).unwrap();
    let text = world.configuration().replace(world.fake.ca_file().to_str().unwrap(), ca.to_str().unwrap());
    let credentials = world.credentials_of(&text).await;
    let error = world.credential(&credentials).await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer") && error.contains("azure.caFile"), "{error}");
    std::fs::write(&ca, world.fake.ca_pem()).unwrap();
    world.advance(300);
    world.credential(&credentials).await.unwrap();
}
