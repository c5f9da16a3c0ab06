//! A changed configuration file takes effect without a restart; a bad one is refused and the last good one stays.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Configuration,
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

impl ConfigurationReload {
    /// Polls the file until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut refused = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            match self.read() {
                Ok(configuration) => {
                    refused = None;
                    self.metrics.configuration_refused(false);
                    if configuration != self.current {
                        self.take_over(configuration).await;
                    }
                }
                // Said once per reason, not every two seconds.
                Err(reason) if refused.as_ref() == Some(&reason) => {}
                Err(reason) => {
                    self.metrics.configuration_reloaded(false);
                    self.metrics.configuration_refused(true);
                    self.events.configuration_refused();
                    tracing::error!(%reason, "the changed configuration is refused, the one before stays in force");
                    refused = Some(reason);
                }
            }
        }
    }

    fn read(&self) -> Result<Configuration, String> {
        let configuration =
            Configuration::load(&self.path).map_err(|error| match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            })?;
        if configuration.pull_secret_name == self.current.pull_secret_name {
            Ok(configuration)
        } else {
            Err(format!("{}: pullSecretName changes only by a restart", self.path.display()))
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
