//! The webhook's registration, followed: whoever overwrites its `caBundle` keeps the API server from calling us, so it is
//! put back at once.

use std::{pin::pin, sync::Arc};

use futures_util::StreamExt as _;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{Api, Client, core::PartialObjectMeta, runtime::watcher::Event};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::watching;

/// Notifies `changed` of each change to the configuration `name`, until `shutdown`. While the watch is broken, or not
/// allowed, changes go unseen: whoever is notified has to look from time to time as well.
pub(super) async fn follow(watches: Client, name: String, changed: Arc<Notify>, shutdown: CancellationToken) {
    let api: Api<PartialObjectMeta<MutatingWebhookConfiguration>> = Api::all(watches);
    let mut events = pin!(watching::follow(api, Some(format!("metadata.name={name}"))));
    let mut is_broken = false;
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        match event {
            Ok(Event::Init) => {}
            Ok(Event::InitApply(_) | Event::InitDone | Event::Apply(_) | Event::Delete(_)) => {
                is_broken = false;
                changed.notify_one();
            }
            Err(error) if !is_broken => {
                is_broken = true;
                tracing::warn!(configuration = %name, %error, "the watch was interrupted and is resumed");
            }
            Err(error) => tracing::debug!(configuration = %name, %error, "the watch is still interrupted"),
        }
    }
}
