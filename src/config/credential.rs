//! The `credential` of a registry rule.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

use super::field::{InvalidField, one_of, parse_field, parse_moment, present};

/// Where a registry rule's credential comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialConfiguration {
    /// A username and a password that go into pull secrets as they are.
    Stored(CredentialFiles),
    /// An identity of Entra: only tokens of the registry go into pull secrets.
    Identity(IdentityConfiguration),
}

/// A credential whose username and password a registry accepts as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFiles {
    /// The application id of a service principal, the name of a token or of the admin user.
    pub username: Value,
    /// The file with the password.
    pub password_file: PathBuf,
    /// When the password ends, if the operator says so.
    pub end: Option<StatedEnd>,
}

/// An identity of Entra and how it proves itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityConfiguration {
    /// A service principal with a secret.
    ClientSecret {
        /// The tenant: its id or one of its domain names.
        tenant: Value,
        /// The application id.
        client: Value,
        /// The file with the secret.
        secret_file: PathBuf,
        /// When the secret ends, if the operator says so.
        end: Option<StatedEnd>,
    },
    /// A service principal with a certificate.
    ClientCertificate {
        /// The tenant: its id or one of its domain names.
        tenant: Value,
        /// The application id.
        client: Value,
        /// The file with the certificate and its private key: PEM or PKCS#12.
        certificate_file: PathBuf,
        /// The file with the password of a PKCS#12 file; without one its password is empty.
        password_file: Option<PathBuf>,
    },
    /// An application that trusts the tokens of somebody else, such as this cluster's ServiceAccount tokens.
    FederatedToken {
        /// The tenant: its id or one of its domain names.
        tenant: Value,
        /// The application id.
        client: Value,
        /// The file with the token, which whoever issues it keeps fresh.
        token_file: PathBuf,
    },
    /// The identity of the Azure machine that this program runs on.
    Managed {
        /// The client id of a user-assigned identity; `None` takes the machine's own.
        client: Option<String>,
    },
}

/// Something that is written in the configuration or stands in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Written in the configuration.
    Literal(String),
    /// The content of this file.
    File(PathBuf),
}

/// When a secret ends, as the operator states it. Azure tells that only to those who may read applications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatedEnd {
    /// Written in the configuration.
    At(Timestamp),
    /// Stands in this file. Without the file nothing is stated.
    File(PathBuf),
}

/// Where the mutating webhook of Azure Workload Identity mounts the token, and the chart too.
const DEFAULT_TOKEN_FILE: &str = "/var/run/secrets/azure/tokens/azure-identity-token";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Credential {
    service_principal: Option<ServicePrincipal>,
    workload_identity: Option<WorkloadIdentity>,
    managed_identity: Option<ManagedIdentity>,
    #[serde(rename = "static")]
    stored: Option<Static>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServicePrincipal {
    tenant_id: Option<String>,
    tenant_id_file: Option<PathBuf>,
    client_id: Option<String>,
    client_id_file: Option<PathBuf>,
    client_secret_file: Option<PathBuf>,
    client_certificate_file: Option<PathBuf>,
    client_certificate_password_file: Option<PathBuf>,
    end_date_time: Option<String>,
    end_date_time_file: Option<PathBuf>,
    #[serde(default)]
    delivery: Delivery,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Delivery {
    #[default]
    Password,
    Token,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WorkloadIdentity {
    tenant_id: Option<String>,
    tenant_id_file: Option<PathBuf>,
    client_id: Option<String>,
    client_id_file: Option<PathBuf>,
    #[serde(default = "default_token_file")]
    token_file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ManagedIdentity {
    client_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Static {
    username: Option<String>,
    username_file: Option<PathBuf>,
    password_file: PathBuf,
}

impl Credential {
    pub(super) fn parse(&self, field: &str) -> Result<CredentialConfiguration, InvalidField> {
        const KINDS: &str = "servicePrincipal, workloadIdentity, managedIdentity or static";
        match self {
            Self {
                service_principal: Some(principal),
                workload_identity: None,
                managed_identity: None,
                stored: None,
            } => principal.parse(&format!("{field}.servicePrincipal")),
            Self {
                service_principal: None,
                workload_identity: Some(identity),
                managed_identity: None,
                stored: None,
            } => identity.parse(&format!("{field}.workloadIdentity")).map(CredentialConfiguration::Identity),
            Self {
                service_principal: None,
                workload_identity: None,
                managed_identity: Some(identity),
                stored: None,
            } => identity.parse(&format!("{field}.managedIdentity")).map(CredentialConfiguration::Identity),
            Self { service_principal: None, workload_identity: None, managed_identity: None, stored: Some(stored) } => {
                stored.parse(&format!("{field}.static")).map(CredentialConfiguration::Stored)
            }
            Self { service_principal: None, workload_identity: None, managed_identity: None, stored: None } => {
                Err(InvalidField(format!("{field} is empty: write one of {KINDS}")))
            }
            _ => Err(InvalidField(format!("{field} holds more than one credential: keep one of {KINDS}"))),
        }
    }
}

impl ServicePrincipal {
    fn parse(&self, field: &str) -> Result<CredentialConfiguration, InvalidField> {
        let client = || one_of(self.client_id.as_deref(), self.client_id_file.as_deref(), field, "clientId");
        if self.client_certificate_password_file.is_some() && self.client_certificate_file.is_none() {
            return Err(InvalidField(format!(
                "{field}.clientCertificatePasswordFile: there is no clientCertificateFile that it could open"
            )));
        }
        let end = self.end(field)?;
        match (self.delivery, &self.client_secret_file, &self.client_certificate_file) {
            (_, Some(_), Some(_)) => {
                Err(InvalidField(format!("{field}: write clientSecretFile or clientCertificateFile, not both")))
            }
            (Delivery::Password, _, Some(_)) => Err(InvalidField(format!(
                "{field}.clientCertificateFile: a certificate cannot be the password in a pull secret; set delivery: token"
            ))),
            (Delivery::Password, None, None) => Err(InvalidField(format!(
                "{field}.clientSecretFile is missing: name the file that holds the service principal's password"
            ))),
            (Delivery::Token, None, None) => Err(InvalidField(format!(
                "{field}: write clientSecretFile or clientCertificateFile: the file that proves the service principal"
            ))),
            (Delivery::Password, Some(secret), None) => Ok(CredentialConfiguration::Stored(CredentialFiles {
                username: client()?,
                password_file: present(secret, field, "clientSecretFile")?,
                end,
            })),
            (Delivery::Token, Some(secret), None) => {
                Ok(CredentialConfiguration::Identity(IdentityConfiguration::ClientSecret {
                    tenant: tenant(self.tenant_id.as_deref(), self.tenant_id_file.as_deref(), field)?,
                    client: client()?,
                    secret_file: present(secret, field, "clientSecretFile")?,
                    end,
                }))
            }
            (Delivery::Token, None, Some(certificate)) => {
                Ok(CredentialConfiguration::Identity(IdentityConfiguration::ClientCertificate {
                    tenant: tenant(self.tenant_id.as_deref(), self.tenant_id_file.as_deref(), field)?,
                    client: client()?,
                    certificate_file: present(certificate, field, "clientCertificateFile")?,
                    password_file: self
                        .client_certificate_password_file
                        .as_deref()
                        .map(|file| present(file, field, "clientCertificatePasswordFile"))
                        .transpose()?,
                }))
            }
        }
    }
}

impl ServicePrincipal {
    fn end(&self, field: &str) -> Result<Option<StatedEnd>, InvalidField> {
        let end = match (&self.end_date_time, &self.end_date_time_file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(InvalidField(format!("{field}: write endDateTime or endDateTimeFile, not both")));
            }
            (Some(text), None) => StatedEnd::At(parse_field(text, &format!("{field}.endDateTime"), parse_moment)?),
            (None, Some(file)) => StatedEnd::File(present(file, field, "endDateTimeFile")?),
        };
        if self.client_certificate_file.is_some() {
            return Err(InvalidField(format!(
                "{field}.endDateTime speaks of a secret; a certificate says by itself when it ends, so leave it out"
            )));
        }
        Ok(Some(end))
    }
}

impl WorkloadIdentity {
    fn parse(&self, field: &str) -> Result<IdentityConfiguration, InvalidField> {
        Ok(IdentityConfiguration::FederatedToken {
            tenant: tenant(self.tenant_id.as_deref(), self.tenant_id_file.as_deref(), field)?,
            client: one_of(self.client_id.as_deref(), self.client_id_file.as_deref(), field, "clientId")?,
            token_file: present(&self.token_file, field, "tokenFile")?,
        })
    }
}

impl ManagedIdentity {
    fn parse(&self, field: &str) -> Result<IdentityConfiguration, InvalidField> {
        if self.client_id.as_deref() == Some("") {
            return Err(InvalidField(format!(
                "{field}.clientId is empty: write the client id of a user-assigned identity, or leave the field out"
            )));
        }
        Ok(IdentityConfiguration::Managed { client: self.client_id.clone() })
    }
}

impl Static {
    fn parse(&self, field: &str) -> Result<CredentialFiles, InvalidField> {
        Ok(CredentialFiles {
            username: one_of(self.username.as_deref(), self.username_file.as_deref(), field, "username")?,
            password_file: present(&self.password_file, field, "passwordFile")?,
            end: None,
        })
    }
}

/// The tenant, of which no token can do without.
fn tenant(literal: Option<&str>, file: Option<&Path>, field: &str) -> Result<Value, InvalidField> {
    if literal.is_none() && file.is_none() {
        return Err(InvalidField(format!(
            "{field}: tenantId or tenantIdFile is missing: tokens come from a tenant; `az account show --query tenantId` \
             names it"
        )));
    }
    let value = one_of(literal, file, field, "tenantId")?;
    if let Value::Literal(tenant) = &value
        && !is_tenant(tenant)
    {
        return Err(InvalidField(format!(
            "{field}.tenantId: {tenant:?} is no tenant: write its id (a GUID) or one of its domain names"
        )));
    }
    Ok(value)
}

/// Whether the text can name a tenant: it becomes a part of an address.
pub(crate) fn is_tenant(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

fn default_token_file() -> PathBuf {
    PathBuf::from(DEFAULT_TOKEN_FILE)
}
