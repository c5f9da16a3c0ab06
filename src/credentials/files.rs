//! Credentials that stand in files: a mounted Secret, a CSI volume.
//!
//! Files are polled and their bytes compared. The kubelet swaps a symbolic link when a Secret changes, and a watch on the
//! file misses that from the second time on.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{CredentialError, CredentialSource},
    config::{CredentialFiles, Value},
    domain::{
        image::LoginServer,
        pull_secret::{CredentialSourceHash, Password, RegistryCredential},
        registry::RegistryName,
    },
    metrics::Metrics,
};

/// How long a changed file goes unnoticed at most.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// A password or a user name is far shorter; anything longer is the wrong file.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The credentials of all registry rules, as their files said when last read. Answers from memory.
#[derive(Debug)]
pub struct FileCredentials {
    files: ArcSwap<BTreeMap<RegistryName, CredentialFiles>>,
    known: ArcSwap<BTreeMap<RegistryName, Result<RegistryCredential, CredentialError>>>,
    metrics: Arc<Metrics>,
}

impl FileCredentials {
    /// Reads all files once. One that is missing is reported and looked for again, never fatal.
    pub async fn read(files: BTreeMap<RegistryName, CredentialFiles>, metrics: Arc<Metrics>) -> Self {
        let credentials = Self { files: ArcSwap::from_pointee(files), known: ArcSwap::default(), metrics };
        credentials.reread().await;
        credentials
    }

    /// Takes over another set of files; they are read at once.
    pub async fn configure(&self, files: BTreeMap<RegistryName, CredentialFiles>) {
        for removed in self.files.load().keys().filter(|registry| !files.contains_key(*registry)) {
            self.metrics.registry_removed(removed.as_str());
        }
        self.files.store(Arc::new(files));
        self.reread().await;
    }

    /// Polls the files until `shutdown` and raises the number in `announce` when a credential has changed.
    pub async fn follow(self: Arc<Self>, announce: watch::Sender<u64>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            if self.reread().await {
                announce.send_modify(|number| *number += 1);
            }
        }
    }

    /// Whether a usable credential differs from before.
    async fn reread(&self) -> bool {
        let files = self.files.load_full();
        let before = self.known.load_full();
        let mut now = BTreeMap::new();
        let mut changed = false;
        for (registry, files) in files.iter() {
            let read = read_twice(registry, files).await;
            self.metrics.credential_readable(registry.as_str(), read.is_ok());
            let known = before.get(registry);
            let result = match (read, known) {
                (Ok(credential), Some(Ok(known))) if credential == *known => Ok(credential),
                (Ok(credential), _) => {
                    changed = true;
                    tracing::info!(registry = registry.as_str(), "credential read");
                    Ok(credential)
                }
                // What worked keeps working while a file is away or half written.
                (Err(error), Some(Ok(known))) => {
                    tracing::warn!(%error, "the credential read before stays in use");
                    Ok(known.clone())
                }
                (Err(error), Some(Err(known))) if error == *known => Err(error),
                (Err(error), _) => {
                    tracing::warn!(%error, "pods of this registry are admitted, their pull secret waits for the credential");
                    Err(error)
                }
            };
            now.insert(registry.clone(), result);
        }
        self.known.store(Arc::new(now));
        changed
    }
}

impl CredentialSource for FileCredentials {
    async fn credential(
        &self,
        registry: &RegistryName,
        _login_server: &LoginServer,
    ) -> Result<RegistryCredential, CredentialError> {
        self.known.load().get(registry).cloned().unwrap_or_else(|| {
            Err(CredentialError { registry: registry.clone(), reason: "it is not configured any more".to_owned() })
        })
    }

    fn source(&self, registry: &RegistryName) -> Option<CredentialSourceHash> {
        let known = self.known.load();
        known.get(registry).and_then(|known| known.as_ref().ok()).map(|credential| credential.source.clone())
    }
}

/// Username and password belong together: they are taken only when two reads in a row say the same, so that a swap of the
/// volume between the two files is not mistaken for a pair.
async fn read_twice(registry: &RegistryName, files: &CredentialFiles) -> Result<RegistryCredential, CredentialError> {
    for _ in 0..3 {
        let first = read_pair(registry, files).await?;
        if first == read_pair(registry, files).await? {
            return Ok(first);
        }
    }
    Err(CredentialError { registry: registry.clone(), reason: "its files keep changing".to_owned() })
}

async fn read_pair(registry: &RegistryName, files: &CredentialFiles) -> Result<RegistryCredential, CredentialError> {
    let username = match &files.username {
        Value::Literal(username) => username.clone(),
        Value::File(path) => read_file(registry, path).await?,
    };
    if username.contains(':') {
        let reason = "the user name holds a colon, which no registry accepts".to_owned();
        return Err(CredentialError { registry: registry.clone(), reason });
    }
    let password = Password::new(read_file(registry, &files.password_file).await?);
    Ok(RegistryCredential::stored(username, password))
}

/// The text of a file without the line end that editors and `kubectl create secret --from-file` leave behind.
async fn read_file(registry: &RegistryName, path: &Path) -> Result<String, CredentialError> {
    let failed = |reason: String| CredentialError { registry: registry.clone(), reason };
    let size = tokio::fs::metadata(path).await.map_err(|error| failed(unreadable(path, &error)))?.len();
    if size > MAX_FILE_BYTES {
        return Err(failed(format!("{} is larger than a credential can be", path.display())));
    }
    let bytes = tokio::fs::read(path).await.map_err(|error| failed(unreadable(path, &error)))?;
    let text = String::from_utf8(bytes).map_err(|_| failed(format!("{} is not text in UTF-8", path.display())))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(failed(format!("{} is empty", path.display())));
    }
    if text.contains(['\r', '\n', '\0']) {
        return Err(failed(format!("{} has more than one line", path.display())));
    }
    Ok(text.to_owned())
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("{} does not exist; is the Secret there, and does it have that key?", path.display())
        }
        kind => format!("{} cannot be read: {kind}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

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

    fn files(volume: &Path) -> BTreeMap<RegistryName, CredentialFiles> {
        let files = CredentialFiles {
            username: Value::File(volume.join("clientId")),
            password_file: volume.join("clientSecret"),
        };
        BTreeMap::from([(name(), files)])
    }

    async fn credential(credentials: &FileCredentials) -> Result<RegistryCredential, CredentialError> {
        let login_server = LoginServerRule::default().parse("contoso.azurecr.io").unwrap();
        credentials.credential(&name(), &login_server).await
    }

    #[tokio::test]
    async fn three_swaps_are_all_seen() {
        let volume = tempfile::tempdir().unwrap();
        publish(volume.path(), "0", &[("clientId", "app"), ("clientSecret", "password-0\n")]);
        let credentials = FileCredentials::read(files(volume.path()), Arc::default()).await;
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
        let credentials = FileCredentials::read(files(volume.path()), Arc::default()).await;
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
        let credentials = FileCredentials::read(files(volume.path()), Arc::default()).await;
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
        let credentials = FileCredentials::read(files(volume.path()), Arc::default()).await;
        assert!(!format!("{credentials:?}").contains("do-not-print"));
    }
}
