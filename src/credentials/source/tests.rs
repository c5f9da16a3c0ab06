use std::{fs, os::unix::fs::symlink, path::Path};

use super::*;
use crate::domain::image::LoginServerRule;

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
async fn no_password_is_printed() {
    let volume = tempfile::tempdir().unwrap();
    publish(volume.path(), "1", &[("clientId", "app"), ("clientSecret", "do-not-print")]);
    let credentials = read(volume.path()).await;
    assert!(!format!("{credentials:?}").contains("do-not-print"));
}
