//! An identity of Entra, with what proves it, as read from its files.

use std::{path::PathBuf, sync::Arc};

use url::Url;

use super::{azure_error::Party, certificate::ClientCertificate};
use crate::domain::pull_secret::{CredentialSourceHash, Password};

/// An identity of Entra, ready to sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// How it proves itself.
    pub proof: Proof,
    /// Where it signs in: the authority, without the tenant.
    pub authority: Url,
    /// What it asks for.
    pub scope: String,
    /// See [`Identity::fingerprint`].
    fingerprint: CredentialSourceHash,
}

/// How an identity proves itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By the secret of a service principal.
    Secret {
        /// Who.
        application: Application,
        /// The secret.
        secret: Password,
    },
    /// By an assertion that it signs with the key of a certificate.
    Certificate {
        /// Who.
        application: Application,
        /// The certificate and its key.
        certificate: Arc<ClientCertificate>,
    },
    /// By a token of somebody whom the application trusts.
    FederatedToken {
        /// Who.
        application: Application,
        /// The file that the token stands in. It is read for every sign-in.
        token_file: PathBuf,
    },
    /// By running on an Azure machine.
    Machine {
        /// The client id of a user-assigned identity.
        client: Option<String>,
    },
}

/// An application in a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// The tenant's id or one of its domain names.
    pub tenant: String,
    /// The application id.
    pub client: String,
}

impl Identity {
    /// An identity that signs in at `authority` and asks for `scope`.
    pub fn new(proof: Proof, authority: Url, scope: String) -> Self {
        let nobody = Application { tenant: String::new(), client: String::new() };
        let Application { tenant, client } = proof.application().unwrap_or(&nobody);
        let file;
        let (kind, evidence) = match &proof {
            Proof::Secret { secret, .. } => ("secret", secret.expose()),
            Proof::Certificate { certificate, .. } => ("certificate", certificate.fingerprint()),
            Proof::FederatedToken { token_file, .. } => {
                file = token_file.display().to_string();
                ("federated", file.as_str())
            }
            Proof::Machine { client } => ("machine", client.as_deref().unwrap_or_default()),
        };
        let fingerprint = CredentialSourceHash::of(&[kind, tenant, client, evidence, authority.as_str(), &scope]);
        Self { proof, authority, scope, fingerprint }
    }

    /// Who is asked for its tokens.
    pub fn party(&self) -> Party {
        match self.application() {
            Some(Application { tenant, client }) => Party::Entra {
                authority: authority_name(&self.authority),
                tenant: tenant.clone(),
                client: client.clone(),
            },
            None => Party::MachineMetadata,
        }
    }

    /// The tenant, when it is known.
    pub fn tenant(&self) -> Option<&str> {
        self.application().map(|application| application.tenant.as_str())
    }

    /// Tells whether tokens come from the same identity and the same proof. A federated token is renewed all the time and
    /// does not count.
    pub fn fingerprint(&self) -> CredentialSourceHash {
        self.fingerprint.clone()
    }

    fn application(&self) -> Option<&Application> {
        self.proof.application()
    }
}

impl Proof {
    fn application(&self) -> Option<&Application> {
        match self {
            Self::Secret { application, .. }
            | Self::Certificate { application, .. }
            | Self::FederatedToken { application, .. } => Some(application),
            Self::Machine { .. } => None,
        }
    }
}

/// The authority as a person names it: host and port.
fn authority_name(authority: &Url) -> String {
    match (authority.host_str(), authority.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => authority.to_string(),
    }
}
