//! The sentence of each error: what happened, then what to do.

use std::fmt::{self, Write as _};

use super::{AzureError, AzureErrorKind, ConnectionFault, LifetimeFault, Party};

pub(super) fn write(error: &AzureError, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error.party.as_ref() {
        Party::Entra { authority, tenant, client } => identity(error, (authority, tenant, client), formatter)?,
        Party::MachineMetadata => metadata(error, formatter)?,
        Party::Registry { login_server } => registry(error, login_server, formatter)?,
    }
    evidence(error, formatter)
}

/// What Entra says of an identity.
fn identity(
    error: &AzureError,
    (authority, tenant, client): (&str, &str, &str),
    formatter: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    match &error.kind {
        AzureErrorKind::SecretExpired => write!(
            formatter,
            "the secret of application {client} has expired: make a new one (az ad app credential reset --id {client} \
             --append) and store it"
        ),
        AzureErrorKind::SecretWrong => write!(
            formatter,
            "Entra does not know this secret of application {client}: store the secret's value, not its id, and check that \
             it was not deleted; a new one may take a minute to be known everywhere"
        ),
        AzureErrorKind::CertificateUnknown => write!(
            formatter,
            "Entra does not accept the certificate of application {client}: upload this certificate to the application, \
             and check that it has not expired"
        ),
        AzureErrorKind::AssertionTime => write!(
            formatter,
            "Entra finds the sign-in of application {client} too old or too early: set the clock of this machine right"
        ),
        AzureErrorKind::FederationMismatch => write!(
            formatter,
            "no federated credential of application {client} fits the token: issuer, subject \
             (system:serviceaccount:<namespace>:<name>) and audience (api://AzureADTokenExchange) must be exactly those of \
             the token"
        ),
        AzureErrorKind::FederatedTokenInvalid => write!(
            formatter,
            "Entra could not verify the federated token of application {client}: the token file must be fresh, and the \
             issuer's discovery document and keys must be public"
        ),
        AzureErrorKind::ApplicationUnknown => write!(
            formatter,
            "tenant {tenant} does not know application {client}: check clientId (the application id, not the object id) \
             and tenantId, and that the application has a service principal in this tenant"
        ),
        AzureErrorKind::ApplicationDisabled => write!(
            formatter,
            "application {client} is disabled in tenant {tenant}: enable sign-in for it in Enterprise applications"
        ),
        AzureErrorKind::TenantUnknown => write!(
            formatter,
            "{authority} does not know tenant {tenant}: check tenantId, and azure.authorityHost if the tenant lives in \
             another cloud"
        ),
        AzureErrorKind::TenantBlocked => write!(
            formatter,
            "tenant {tenant} is blocked, for want of activity most often: an administrator can have it opened again"
        ),
        AzureErrorKind::ScopeUnknown => write!(
            formatter,
            "Entra does not know the scope in tenant {tenant}, or it is disabled there: set azure.scope to the one of this cloud, \
             https://management.azure.com/.default for example"
        ),
        AzureErrorKind::BlockedByPolicy => write!(
            formatter,
            "a policy of tenant {tenant} (Conditional Access) keeps application {client} out: allow it, or the address \
             that this cluster comes from; tenant restrictions that a proxy adds do so too"
        ),
        AzureErrorKind::EntraRefused { error: name } => {
            write!(formatter, "Entra refused application {client} of tenant {tenant}")?;
            if let Some(name) = name {
                write!(formatter, " ({name})")?;
            }
            match error.entra_code {
                Some(code) => {
                    write!(formatter, ": https://login.microsoftonline.com/error?code={code} tells what the code means")
                }
                None => formatter.write_str(": look up the sign-in in the tenant's sign-in log"),
            }
        }
        AzureErrorKind::Throttled => formatter
            .write_str("Entra throttles sign-ins of this application: it is asked again later, nothing has to be done"),
        _ => common(error, authority, "azure.authorityHost", formatter),
    }
}

fn metadata(error: &AzureError, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    formatter.write_str(match &error.kind {
        AzureErrorKind::Throttled => {
            "the metadata service throttles this machine: it is asked again later, nothing has to be done"
        }
        AzureErrorKind::Unavailable => {
            "the metadata service of this machine has a fault: it is asked again later; see Azure's status if it lasts"
        }
        _ => {
            "there is no managed identity here: this works only on Azure machines that have the identity assigned, and \
             only where pods may reach 169.254.169.254; use servicePrincipal or workloadIdentity elsewhere"
        }
    })
}

fn registry(error: &AzureError, login_server: &str, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    match &error.kind {
        AzureErrorKind::RegistryRefused => write!(
            formatter,
            "{login_server} refused the credential: give it the role AcrPull on the registry (Container Registry \
             Repository Reader when the registry uses ABAC repository permissions), and check that it is of the \
             registry's tenant and still valid; a new role takes some minutes"
        ),
        AzureErrorKind::TokenInvalid => write!(
            formatter,
            "{login_server} finds the token of Entra invalid: azure.scope must be one that the registry takes, \
             https://containerregistry.azure.net/.default in every cloud, and the identity must be of the registry's tenant and \
             have the role AcrPull (Container Registry Repository Reader when the registry uses ABAC repository permissions)"
        ),
        AzureErrorKind::Firewall => write!(
            formatter,
            "{login_server} refuses the address that this cluster comes from: allow it in the registry's networking \
             settings, or use a private endpoint"
        ),
        AzureErrorKind::NotARegistry => write!(
            formatter,
            "{login_server} is no registry that exchanges tokens: check the name in hosts; a registry outside Azure needs \
             a credential of kind static"
        ),
        AzureErrorKind::ImageUnknown => write!(
            formatter,
            "{login_server} has no such image, or the credential may not read this repository: check name and tag, and \
             the repository permissions of the credential"
        ),
        AzureErrorKind::Throttled => write!(
            formatter,
            "{login_server} throttles requests: it is asked again later; a higher tier of the registry allows more"
        ),
        AzureErrorKind::TooManyUnknown => write!(
            formatter,
            "{login_server} is not asked yet, since too many login servers were named lately that never gave a token: it is \
             asked later; name those that you have in hosts"
        ),
        AzureErrorKind::ForeignRealm { realm } => write!(
            formatter,
            "{login_server} wants the sign-in at {realm}, which is no login server: no credential is sent there; add its \
             domain to azure.extraSuffixes if it belongs to the registry"
        ),
        _ => common(error, login_server, "the host", formatter),
    }
}

/// What can happen with anybody.
fn common(error: &AzureError, host: &str, field: &str, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    match &error.kind {
        AzureErrorKind::Firewall => {
            write!(formatter, "{host} forbids the request: a firewall or proxy on the way keeps it back, let it pass")
        }
        AzureErrorKind::Unavailable => {
            write!(formatter, "{host} has a fault: it is asked again later; see Azure's status if it lasts")
        }
        AzureErrorKind::Dns => write!(
            formatter,
            "the name {host} cannot be resolved: check the spelling of {field}, the cluster's DNS (private endpoints need \
             their DNS zone), and HTTPS_PROXY if Azure is behind a proxy"
        ),
        AzureErrorKind::Connection(fault) => {
            let fault = match fault {
                ConnectionFault::Refused => "refuses connections",
                ConnectionFault::Unreachable => "cannot be reached",
                ConnectionFault::Broken => "broke off the connection",
            };
            write!(formatter, "{host} {fault}: check network policies, firewalls and HTTPS_PROXY")
        }
        AzureErrorKind::Proxy => write!(
            formatter,
            "the proxy does not let us through to {host}: check HTTPS_PROXY, its user and password, and NO_PROXY"
        ),
        AzureErrorKind::Tls { reason } => write!(
            formatter,
            "the TLS certificate of {host} is not accepted ({reason}): if a proxy inspects TLS, name its CA in \
             azure.caFile or SSL_CERT_FILE"
        ),
        AzureErrorKind::Timeout => {
            write!(formatter, "{host} did not answer in time: check network policies, firewalls and HTTPS_PROXY")
        }
        AzureErrorKind::Redirected => write!(
            formatter,
            "{host} answers with a redirect, which is never followed: a proxy or a wrong {field} is likely"
        ),
        AzureErrorKind::NotTheService { html } => {
            let answer = if *html { "a web page" } else { "something unexpected" };
            write!(formatter, "{host} answers with {answer}: a proxy or a wrong {field} is likely; let {host} pass")
        }
        AzureErrorKind::TokenLifetime(fault) => {
            let fault = match fault {
                LifetimeFault::Unreadable => "without a readable time of expiry",
                LifetimeFault::Over => "that has expired by the clock of this machine; set the clock right",
                LifetimeFault::TooShort => "that lives for less than a minute",
                LifetimeFault::TooLong => "that lives for more than a year",
            };
            write!(formatter, "{host} gave a token {fault}: it is not used")
        }
        AzureErrorKind::File { reason } => formatter.write_str(reason),
        AzureErrorKind::Internal { reason } => write!(formatter, "the request to {host} could not be made: {reason}"),
        // Said by one of the parties only; with another it is a refusal all the same.
        _ => write!(formatter, "{host} refused the request"),
    }
}

/// What finds the case in Azure's logs, in parentheses.
fn evidence(error: &AzureError, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut evidence = String::new();
    let mut add = |part: fmt::Arguments<'_>| {
        if !evidence.is_empty() {
            evidence.push_str(", ");
        }
        evidence.write_fmt(part)
    };
    if let Some(code) = error.entra_code {
        add(format_args!("AADSTS{code}"))?;
    }
    if let Some(status) = error.status {
        add(format_args!("HTTP {status}"))?;
    }
    if let Some(id) = &error.correlation_id {
        add(format_args!("correlation id {id}"))?;
    }
    if let Some(delay) = error.retry_after {
        add(format_args!("asked to wait {} s", delay.as_secs()))?;
    }
    if evidence.is_empty() { Ok(()) } else { write!(formatter, " ({evidence})") }
}
