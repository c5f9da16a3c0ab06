use std::{fs, os::unix::fs::symlink, path::Path};

use super::*;
use crate::{
    config::{CredentialFiles, StatedEnd, Value},
    domain::image::LoginServerRule,
};

/// Lays files as the kubelet lays a Secret volume: a dated directory behind the symbolic link `..data`.
fn publish(volume: &Path, version: &str, files: &[(&str, &str)]) {
    let directory = volume.join(format!("..{version}"));
    fs::create_dir_all(&directory).unwrap();
    for (name, content) in files {
        fs::write(directory.join(name), content).unwrap();
        let link = volume.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    let new_link = volume.join("..data_tmp");
    symlink(format!("..{version}"), &new_link).unwrap();
    fs::rename(new_link, volume.join("..data")).unwrap();
}

fn name() -> RegistryName {
    "contoso".parse().unwrap()
}

async fn read(volume: &Path) -> Credentials {
    let text = format!(
        "registries: [{{name: contoso, credential: {{servicePrincipal: {{clientIdFile: {0}/clientId, clientSecretFile: \
         {0}/clientSecret}}}}}}]",
        volume.display()
    );
    Credentials::read(&Configuration::parse(&text).unwrap(), Arc::default(), Clock::system()).await
}

async fn credential(credentials: &Credentials) -> Result<RegistryCredential, CredentialError> {
    let login_server = LoginServerRule::default().parse("contoso.azurecr.io").unwrap();
    credentials.credential(&name(), &login_server).await
}

#[tokio::test]
async fn three_swaps_are_all_seen() {
    let volume = tempfile::tempdir().unwrap();
    publish(volume.path(), "0", &[("clientId", "app"), ("clientSecret", "password-0\n")]);
    let credentials = read(volume.path()).await;
    assert_eq!(credential(&credentials).await.unwrap().password.expose(), "password-0");
    assert!(!credentials.reread().await, "nothing has changed yet");
    for version in ["1", "2", "3"] {
        let password = format!("password-{version}");
        publish(volume.path(), version, &[("clientId", "app"), ("clientSecret", &password)]);
        assert!(credentials.reread().await, "swap {version} was missed");
        assert_eq!(credential(&credentials).await.unwrap().password.expose(), password);
    }
}

#[tokio::test]
async fn a_missing_file_is_named_and_found_later() {
    let volume = tempfile::tempdir().unwrap();
    let credentials = read(volume.path()).await;
    let error = credential(&credentials).await.unwrap_err().to_string();
    assert!(error.contains("registry contoso") && error.contains("clientId does not exist"), "{error}");
    publish(volume.path(), "1", &[("clientId", "app"), ("clientSecret", "password")]);
    assert!(credentials.reread().await);
    assert_eq!(credential(&credentials).await.unwrap().username, "app");
}

#[tokio::test]
async fn a_good_credential_outlives_a_bad_file() {
    let volume = tempfile::tempdir().unwrap();
    publish(volume.path(), "1", &[("clientId", "app"), ("clientSecret", "good")]);
    let credentials = read(volume.path()).await;
    for (version, bad) in [("2", ""), ("3", "two\nlines"), ("4", "\n")] {
        publish(volume.path(), version, &[("clientId", "app"), ("clientSecret", bad)]);
        assert!(!credentials.reread().await, "{bad:?} was taken for a change");
        assert_eq!(credential(&credentials).await.unwrap().password.expose(), "good");
    }
}

#[tokio::test]
async fn the_end_of_the_secret_is_told_where_it_is_stated_and_never_gets_in_the_way() {
    const METRIC: &str = "service_principal_credential_expiry_timestamp_seconds{registry=\"contoso\"}";
    let volume = tempfile::tempdir().unwrap();
    let text = format!(
        "registries: [{{name: contoso, credential: {{servicePrincipal: {{clientId: app, clientSecretFile: {0}/clientSecret, \
         endDateTimeFile: {0}/endDateTime}}}}}}]",
        volume.path().display()
    );
    let (configuration, metrics) = (Configuration::parse(&text).unwrap(), Arc::new(Metrics::new()));
    publish(volume.path(), "0", &[("clientSecret", "password")]);
    let credentials = Credentials::read(&configuration, metrics.clone(), Clock::system()).await;
    let told = || {
        let text = metrics.encode(0, None);
        text.lines().find_map(|line| Some(line.split_once(METRIC)?.1.trim().to_owned()))
    };
    assert_eq!(told(), None, "nobody has stated it");
    for (version, stated, expected) in [
        ("1", "2027-11-24T08:00:00Z\n", Some("1827043200.0")),
        ("2", "2027-11-24", Some("1827014400.0")),
        ("3", "my-password", None),
        ("4", "", None),
        ("5", "2028-01-01", Some("1830297600.0")),
    ] {
        publish(volume.path(), version, &[("clientSecret", "password"), ("endDateTime", stated)]);
        assert!(!credentials.reread().await, "the credential is still the same");
        assert_eq!(told().as_deref(), expected, "{stated:?}");
        assert_eq!(credential(&credentials).await.unwrap().password.expose(), "password");
    }
    credentials.configure(&Configuration::parse("").unwrap()).await;
    assert_eq!(told(), None, "the registry is gone");
}

#[tokio::test]
async fn what_stands_where_the_end_should_is_not_repeated() {
    let volume = tempfile::tempdir().unwrap();
    publish(volume.path(), "1", &[("endDateTime", "a-secret-under-the-wrong-key")]);
    let file = volume.path().join("endDateTime");
    let files = CredentialFiles {
        username: Value::Literal("app".to_owned()),
        password_file: volume.path().join("clientSecret"),
        end: Some(StatedEnd::File(file.clone())),
    };
    let error = end(&CredentialConfiguration::Stored(files), None).await.unwrap_err().to_string();
    let expected = format!("{} does not say when the secret ends: write a moment such as", file.display());
    assert!(error.starts_with(&expected) && !error.contains("wrong-key"), "{error}");
}

#[tokio::test]
async fn no_password_is_printed() {
    let volume = tempfile::tempdir().unwrap();
    publish(volume.path(), "1", &[("clientId", "app"), ("clientSecret", "do-not-print")]);
    let credentials = read(volume.path()).await;
    assert!(!format!("{credentials:?}").contains("do-not-print"));
}

#[tokio::test]
async fn a_pipe_in_place_of_a_file_does_not_stop_the_polling() {
    let volume = tempfile::tempdir().unwrap();
    publish(volume.path(), "1", &[("clientId", "app"), ("clientSecret", "good")]);
    let credentials = read(volume.path()).await;
    let pipe = volume.path().join("clientSecret");
    fs::remove_file(&pipe).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reread = tokio::time::timeout(Duration::from_secs(60), credentials.reread()).await;
    // Lets go of whoever waits for a writer.
    drop(fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap());
    assert_eq!(reread.ok(), Some(false), "the pipe was waited for");
    assert_eq!(credential(&credentials).await.unwrap().password.expose(), "good");
    let anew = read(volume.path()).await;
    let error = credential(&anew).await.unwrap_err().to_string();
    assert!(error.contains("clientSecret cannot be read: it is a directory, a pipe or a device: put a"), "{error}");
    fs::remove_file(&pipe).unwrap();
    fs::write(&pipe, "next").unwrap();
    assert!(credentials.reread().await);
    assert_eq!(credential(&credentials).await.unwrap().password.expose(), "next");
}

/// The entry main for one login server, with its files in `directory`.
fn main_entry(host: &str, directory: &Path) -> Configuration {
    let text = format!(
        "registries: [{{name: main, hosts: [{host}.azurecr.io], credential: {{static: {{username: main, passwordFile: \
         {}/password}}}}}}]",
        directory.display()
    );
    Configuration::parse(&text).unwrap()
}

async fn password_of_main(credentials: &Credentials, host: &str) -> Result<String, CredentialError> {
    let login_server = LoginServerRule::default().parse(&format!("{host}.azurecr.io")).unwrap();
    let credential = credentials.credential(&"main".parse().unwrap(), &login_server).await?;
    Ok(credential.password.expose().to_owned())
}

#[tokio::test]
async fn a_changed_entry_never_gets_the_credential_that_it_had() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("password"), "of contoso").unwrap();
    let before = main_entry("contoso", directory.path());
    let credentials = Credentials::read(&before, Arc::default(), Clock::system()).await;
    assert_eq!(password_of_main(&credentials, "contoso").await.unwrap(), "of contoso");
    let elsewhere = tempfile::tempdir().unwrap();
    let after = main_entry("fabrikam", elsewhere.path());
    let poll = credentials.reading.lock().await;
    {
        let mut under_way = std::pin::pin!(credentials.configure(&after));
        assert!(futures_util::poll!(&mut under_way).is_pending());
        password_of_main(&credentials, "fabrikam").await.expect_err("the old credential, until the new one is read");
        assert_eq!([&before, &after].map(|it| credentials.goes_by(&it.rules)), [true, false]);
        drop(poll);
        under_way.await;
    }
    assert_eq!([&before, &after].map(|it| credentials.goes_by(&it.rules)), [false, true]);
    let error = password_of_main(&credentials, "fabrikam").await.expect_err("the old credential").to_string();
    assert!(error.contains("does not exist"), "{error}");
    assert_eq!(credentials.source(&"main".parse().unwrap()), None);
    fs::write(elsewhere.path().join("password"), "of fabrikam").unwrap();
    assert!(credentials.reread().await);
    assert_eq!(password_of_main(&credentials, "fabrikam").await.unwrap(), "of fabrikam");
}

#[tokio::test]
async fn an_entry_that_only_serves_others_now_keeps_its_credential_while_a_file_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    fs::write(&file, "password").unwrap();
    let before = main_entry("contoso", directory.path());
    let credentials = Credentials::read(&before, Arc::default(), Clock::system()).await;
    fs::remove_file(file).unwrap();
    credentials.configure(&main_entry("fabrikam", directory.path())).await;
    assert_eq!(password_of_main(&credentials, "fabrikam").await.unwrap(), "password");
}

#[tokio::test]
async fn a_poll_that_is_under_way_brings_no_removed_registry_back() {
    let (directory, metrics) = (tempfile::tempdir().unwrap(), Arc::new(Metrics::new()));
    let before = main_entry("contoso", directory.path());
    let credentials = Credentials::read(&before, metrics.clone(), Clock::system()).await;
    assert!(metrics.encode(0, None).contains("registry=\"main\""));
    let poll = credentials.reading.lock().await;
    {
        let none = Configuration::parse("").unwrap();
        let mut under_way = std::pin::pin!(credentials.configure(&none));
        assert!(futures_util::poll!(&mut under_way).is_pending());
        metrics.credential_readable("main", false);
        drop(poll);
        under_way.await;
    }
    let text = metrics.encode(0, None);
    assert!(!text.contains("registry=\"main\""), "{text}");
}
