//! What the volumes of a pod hold, read from the API server.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Secret};
use kube::{Api, Client};

use super::LocalPodError;
use super::atomic_directory::{AtomicDirectory, Files, VolumeFile};
use super::mount_paths::MountPaths;
use crate::service_account_token;

/// One source of a volume's files.
#[derive(Debug, Clone)]
pub(super) enum Source {
    ConfigMap {
        name: String,
        optional: bool,
        items: Option<Vec<KeyToPath>>,
    },
    Secret {
        name: String,
        optional: bool,
        items: Option<Vec<KeyToPath>>,
    },
    /// A file that is known without asking: a field of the pod, or the API server's CA.
    Literal {
        path: String,
        mode: Option<u32>,
        content: String,
    },
    ServiceAccountToken {
        path: String,
        audience: Option<String>,
        seconds: i64,
    },
}

/// A volume as the pod template describes it.
#[derive(Debug, Clone)]
pub(super) struct VolumeDefinition {
    pub(super) name: String,
    pub(super) default_mode: u32,
    /// Empty for an emptyDir.
    pub(super) sources: Vec<Source>,
}

/// All volumes of one pod on disk.
#[derive(Debug)]
pub(super) struct Volumes {
    reader: Reader,
    volumes: Vec<(VolumeDefinition, AtomicDirectory)>,
}

impl Volumes {
    /// Makes the directories `<root>/<volume>`, still empty.
    pub(super) fn lay_out(
        reader: Reader,
        definitions: Vec<VolumeDefinition>,
        root: &Path,
    ) -> Result<Self, LocalPodError> {
        let volumes = definitions.into_iter().map(|definition| {
            let path = root.join(&definition.name);
            fs::create_dir_all(&path).map_err(LocalPodError::io("make a volume's directory"))?;
            Ok((definition, AtomicDirectory::new(path)))
        });
        Ok(Self { reader, volumes: volumes.collect::<Result<_, LocalPodError>>()? })
    }

    /// Brings every volume up to date. A volume whose source is missing or cannot be read keeps what it has, and the first
    /// such failure is returned after the others were tried.
    pub(super) async fn refresh(&mut self) -> Result<(), LocalPodError> {
        let mut result = Ok(());
        for (definition, directory) in &mut self.volumes {
            if definition.sources.is_empty() {
                continue;
            }
            let refreshed = match self.reader.files(definition).await {
                Ok(files) => directory.write(files).map_err(LocalPodError::io("write a volume")),
                Err(error) => Err(error),
            };
            result = result.and(refreshed);
        }
        result
    }
}

/// Reads the sources of volumes, as the administrator, as a kubelet may.
pub(super) struct Reader {
    client: Client,
    namespace: String,
    service_account: String,
    /// `ConfigMaps` name files by their path in the container, which is another one here.
    mount_paths: MountPaths,
    tokens: Vec<IssuedToken>,
}

/// A token that is used until four fifths of its life are over, as the kubelet does.
struct IssuedToken {
    audience: Option<String>,
    seconds: i64,
    token: String,
    issued: Instant,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reader").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn new(client: Client, namespace: &str, service_account: &str, mount_paths: MountPaths) -> Self {
        let (namespace, service_account) = (namespace.to_owned(), service_account.to_owned());
        Self { client, namespace, service_account, mount_paths, tokens: Vec::new() }
    }

    async fn files(&mut self, volume: &VolumeDefinition) -> Result<Files, LocalPodError> {
        let mut files = Files::new();
        for source in &volume.sources {
            match source {
                Source::ConfigMap { name, optional, items } => {
                    let entries = self.config_map(name).await?;
                    add(&mut files, volume, ("configmap", name, *optional), items.as_deref(), entries)?;
                }
                Source::Secret { name, optional, items } => {
                    let entries = self.secret(name).await?;
                    add(&mut files, volume, ("secret", name, *optional), items.as_deref(), entries)?;
                }
                Source::Literal { path, mode, content } => {
                    let mode = mode.unwrap_or(volume.default_mode);
                    files.insert(PathBuf::from(path), VolumeFile { content: content.clone().into_bytes(), mode });
                }
                Source::ServiceAccountToken { path, audience, seconds } => {
                    let token = self.token(audience.as_deref(), *seconds).await?;
                    let file = VolumeFile { content: token.into_bytes(), mode: volume.default_mode & 0o600 };
                    files.insert(PathBuf::from(path), file);
                }
            }
        }
        Ok(files)
    }

    async fn config_map(&self, name: &str) -> Result<Option<Vec<(String, Vec<u8>)>>, LocalPodError> {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let map = maps.get_opt(name).await.map_err(LocalPodError::request("ConfigMap", &self.namespace, name))?;
        Ok(map.map(|map| {
            let texts = map.data.unwrap_or_default().into_iter();
            let texts = texts.map(|(key, text)| (key, self.mount_paths.localise(&text).into_bytes()));
            let binaries = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
            texts.chain(binaries).collect()
        }))
    }

    async fn secret(&self, name: &str) -> Result<Option<Vec<(String, Vec<u8>)>>, LocalPodError> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let secret = secrets.get_opt(name).await.map_err(LocalPodError::request("Secret", &self.namespace, name))?;
        Ok(secret
            .map(|secret| secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect()))
    }

    async fn token(&mut self, audience: Option<&str>, seconds: i64) -> Result<String, LocalPodError> {
        let life = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        self.tokens.retain(|token| token.issued.elapsed() < life * 4 / 5 || token.seconds != seconds);
        let known = self.tokens.iter().find(|token| token.audience.as_deref() == audience && token.seconds == seconds);
        if let Some(known) = known {
            return Ok(known.token.clone());
        }
        let account = &self.service_account;
        let token = service_account_token::issue(&self.client, &self.namespace, account, audience, seconds).await;
        let token = token.map_err(LocalPodError::request("the token of ServiceAccount", &self.namespace, account))?;
        let audience = audience.map(str::to_owned);
        self.tokens.push(IssuedToken { audience, seconds, token: token.clone(), issued: Instant::now() });
        Ok(token)
    }
}

/// Adds the entries of one object: all of them under their keys, or only the listed items under their paths.
fn add(
    files: &mut Files,
    volume: &VolumeDefinition,
    (kind, name, optional): (&str, &str, bool),
    items: Option<&[KeyToPath]>,
    entries: Option<Vec<(String, Vec<u8>)>>,
) -> Result<(), LocalPodError> {
    let missing = |missing: String| LocalPodError::Volume { volume: volume.name.clone(), missing };
    let entries = match entries {
        Some(entries) => entries,
        None if optional => return Ok(()),
        None => return Err(missing(format!("{kind} \"{name}\" not found"))),
    };
    let Some(items) = items else {
        let mode = volume.default_mode;
        files.extend(entries.into_iter().map(|(key, content)| (PathBuf::from(key), VolumeFile { content, mode })));
        return Ok(());
    };
    for item in items {
        let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(volume.default_mode);
        match entries.iter().find(|(key, _)| *key == item.key) {
            Some((_, content)) => {
                files.insert(PathBuf::from(&item.path), VolumeFile { content: content.clone(), mode });
            }
            None if optional => {}
            None => return Err(missing(format!("{kind} \"{name}\" references non-existent key: {}", item.key))),
        }
    }
    Ok(())
}
