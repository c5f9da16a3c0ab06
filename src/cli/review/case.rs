//! One pod, or template of pods: what is decided, and why, in words.

use crate::domain::{
    decision::{self, Decision, Settings, SkipReason, Ungranted},
    image::{ImageReference, LoginServer},
    registry::Namespace,
    review::Pod,
};

/// A pod in its namespace.
pub(super) struct Case<'a> {
    /// What makes the pod, for people: `Deployment team-a/web`.
    pub(super) object: String,
    pub(super) pod: &'a Pod<'a>,
    pub(super) namespace: &'a Namespace,
    /// The namespace's own manifest is part of the input.
    pub(super) is_namespace_known: bool,
    pub(super) settings: &'a Settings,
}

impl Case<'_> {
    /// What the webhook decides.
    pub(super) fn decide(&self) -> Decision {
        match decision::login_servers(self.pod, &self.namespace.name, self.settings) {
            Ok(login_servers) => decision::decide(login_servers, self.namespace, self.settings),
            Err(reason) => Decision::Skip(reason),
        }
    }

    /// Why it decides so, a line for each finding.
    pub(super) fn explain(&self, decision: &Decision) -> Vec<String> {
        let namespace_name = &self.namespace.name;
        let mut findings = Vec::new();
        match decision {
            Decision::Skip(SkipReason::ExcludedNamespace) => {
                findings.push(format!("namespace {namespace_name} is excluded"));
            }
            Decision::Skip(SkipReason::NamespaceOptedOut) => {
                findings.push(format!("namespace {namespace_name} has opted out"));
            }
            Decision::Skip(SkipReason::NothingGranted(ungranted)) => {
                findings.extend(self.images(decision));
                findings.extend(self.doubt(ungranted));
            }
            Decision::Skip(SkipReason::NoRegistryImage) => {
                findings.extend(self.images(decision));
                findings.push(SkipReason::NoRegistryImage.to_string());
            }
            Decision::Skip(reason) => findings.push(reason.to_string()),
            Decision::Inject(injection) => {
                findings.extend(self.images(decision));
                findings.extend(self.doubt(&injection.ungranted));
                if self.pod.references(&self.settings.pull_secret_name) {
                    findings.push(format!("references {} already", self.settings.pull_secret_name));
                }
            }
        }
        findings.into_iter().map(|finding| format!("{}: {finding}", self.object)).collect()
    }

    /// A finding for each image that comes from a login server, or that no kubelet could pull.
    fn images(&self, decision: &Decision) -> Vec<String> {
        let count = self.pod.images().count();
        let finding = |(index, image): (usize, &str)| {
            let finding = match self.settings.rules.login_servers().login_server_of(image) {
                Some(login_server) => grant(decision, &login_server)?,
                None => format!("is no image reference: {}", ImageReference::parse(image).err()?),
            };
            Some(format!("image {} of {count} {image} {finding}", index + 1))
        };
        self.pod.images().enumerate().filter_map(finding).collect()
    }

    /// A rule that selects by label may serve the namespace in the cluster though it does not here.
    fn doubt(&self, ungranted: &[Ungranted]) -> Option<String> {
        let in_doubt = self.settings.rules.iter().any(|rule| {
            rule.namespaces.selects_by_label()
                && ungranted.iter().any(|ungranted| ungranted.rule.as_ref() == Some(&rule.name))
        });
        (in_doubt && !self.is_namespace_known).then(|| {
            format!("the labels of namespace {} are not known: its manifest is not in the input", self.namespace.name)
        })
    }
}

fn grant(decision: &Decision, login_server: &LoginServer) -> Option<String> {
    let ungranted = match decision {
        Decision::Inject(injection) => match injection.granted.get(login_server) {
            Some(rule) => return Some(format!("matches rule {rule}")),
            None => &injection.ungranted,
        },
        Decision::Skip(SkipReason::NothingGranted(ungranted)) => ungranted,
        Decision::Skip(_) => return None,
    };
    let ungranted = ungranted.iter().find(|ungranted| ungranted.login_server == *login_server)?;
    Some(match &ungranted.rule {
        Some(rule) => format!("is refused: rule {rule} does not serve the namespace"),
        None => "is refused: no rule covers its host".to_owned(),
    })
}
