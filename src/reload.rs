//! A changed configuration file takes effect without a restart; a bad one is refused and the last good one stays.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Configuration, ConfigurationError, read_text},
    credentials::{Credentials, POLL_INTERVAL},
    domain::decision::Settings,
    events::Events,
    heal::HealSettings,
    metrics::Metrics,
};

/// Follows the configuration file and hands what it says to the running parts.
#[derive(Debug)]
pub struct ConfigurationReload {
    /// The file.
    pub path: PathBuf,
    /// Excluded whatever is configured.
    pub own_namespace: String,
    /// What is in force.
    pub current: Configuration,
    /// Receives the part that decides about pods.
    pub settings: Arc<ArcSwap<Settings>>,
    /// Receives whether stuck pods are evicted.
    pub heal_settings: Arc<ArcSwap<HealSettings>>,
    /// Tells the operator of a refusal.
    pub events: Events,
    /// Receives where credentials stand.
    pub credentials: Arc<Credentials>,
    /// Counts reloads.
    pub metrics: Arc<Metrics>,
    /// Announces that pull secrets may have to be rewritten.
    pub announce: watch::Sender<u64>,
}

/// What the looks before this one found.
#[derive(Default)]
struct Seen {
    text: Option<Result<String, String>>,
    refused: Option<String>,
}

impl ConfigurationReload {
    /// Polls the file until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut seen = Seen::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            self.look(&mut seen).await;
        }
    }

    /// Goes by what two looks in a row have found: whoever writes into the file instead of swapping it shows half of it for
    /// a moment, and half of it may be valid.
    async fn look(&mut self, seen: &mut Seen) {
        let text = read_text(&self.path).await.map_err(|error| with_cause(&error));
        if seen.text.as_ref() != Some(&text) {
            seen.text = Some(text);
            return;
        }
        let changed = text.and_then(|text| {
            let changed = self.current.changed_to(&text).map_err(ConfigurationError::in_file(&self.path));
            changed.map_err(|error| with_cause(&error))
        });
        match changed {
            Ok(configuration) => {
                seen.refused = None;
                self.metrics.configuration_refused(false);
                if configuration != self.current {
                    self.take_over(configuration).await;
                }
            }
            // Said once per reason, not every two seconds.
            Err(reason) if seen.refused.as_ref() == Some(&reason) => {}
            Err(reason) => {
                self.metrics.configuration_reloaded(false);
                self.metrics.configuration_refused(true);
                self.events.configuration_refused();
                tracing::error!(%reason, "the changed configuration is refused, the one before stays in force");
                seen.refused = Some(reason);
            }
        }
    }

    async fn take_over(&mut self, configuration: Configuration) {
        self.credentials.configure(&configuration).await;
        self.settings.store(Arc::new(configuration.settings(Some(&self.own_namespace))));
        let evict_stuck_pods = configuration.evict_stuck_pods;
        self.heal_settings.store(Arc::new(HealSettings { evict_stuck_pods }));
        self.current = configuration;
        self.metrics.configuration_reloaded(true);
        self.announce.send_modify(|number| *number += 1);
        tracing::info!(path = %self.path.display(), "the changed configuration is in force");
    }
}

fn with_cause(error: &ConfigurationError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const ONE: &str =
        "registries:\n- {name: contoso, hosts: [contoso.azurecr.io], credential: {managedIdentity: {}}}\n";
    const TWO: &str = "registries:\n- {name: contoso, hosts: [contoso.azurecr.io], credential: {managedIdentity: {}}}\n\
         - {name: fabrikam, hosts: [fabrikam.azurecr.io], credential: {managedIdentity: {}}}\n";

    async fn following(path: PathBuf) -> ConfigurationReload {
        let current = Configuration::parse(TWO).unwrap();
        let metrics = Arc::<Metrics>::default();
        ConfigurationReload {
            path,
            own_namespace: "acr-pull-injector".to_owned(),
            settings: Arc::new(ArcSwap::from_pointee(current.settings(None))),
            heal_settings: Arc::default(),
            events: Events::none(),
            credentials: Arc::new(Credentials::read(&current, metrics.clone(), Clock::system()).await),
            metrics,
            announce: watch::channel(0).0,
            current,
        }
    }

    #[tokio::test]
    async fn half_a_file_takes_no_registry_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        let mut reload = following(path.clone()).await;
        let mut seen = Seen::default();
        let mut look = async |text: &str| {
            std::fs::write(&path, text).unwrap();
            reload.look(&mut seen).await;
            let text = reload.metrics.encode(0, None);
            let refused = text.lines().any(|line| line == "acr_pull_injector_configuration_refused 1");
            (reload.settings.load().rules.iter().count(), refused)
        };
        // At one look only: nothing happens, whether it is valid or not.
        for text in [TWO, "", TWO, ONE, TWO, "registries: [", TWO, TWO] {
            assert_eq!(look(text).await, (2, false), "{text:?}");
        }
        // What stays is taken for meant, but for a file that does not name what it takes away.
        for text in ["", "# none\n", "pullSecretName: acr-pull-secret\n", "registries:\n", "registries: ["] {
            look(text).await;
            assert_eq!(look(text).await, (2, true), "{text:?}");
        }
        look(TWO).await;
        assert_eq!(look(TWO).await, (2, false));
        assert_eq!(look(ONE).await, (2, false));
        assert_eq!(look(ONE).await, (1, false));
        look("registries: []\n").await;
        assert_eq!(look("registries: []\n").await, (0, false));
        look("").await;
        assert_eq!(look("").await, (0, false), "there is nothing that it could take away");
    }
}
