//! Values that must be refused, and values that several tests share.

/// A certificate that the user provides.
pub(crate) const OWN_CERTIFICATE: [&str; 4] = [
    "--set",
    "certificates.source=existingSecret,certificates.existingSecret.name=own-certificate",
    "--set",
    "certificates.existingSecret.caBundle=-----BEGIN CERTIFICATE-----",
];

/// Where the schema knows every key.
pub(crate) const CLOSED: [&str; 35] = [
    "",
    "servicePrincipal.",
    "registries[0].name=a,registries[0].",
    "registries[0].name=a,registries[0].credential.",
    "registries[0].name=a,registries[0].credential.servicePrincipal.",
    "registries[0].name=a,registries[0].credential.workloadIdentity.",
    "registries[0].name=a,registries[0].credential.managedIdentity.",
    "registries[0].name=a,registries[0].credential.static.",
    "registries[0].name=a,registries[0].namespaces.",
    "azure.",
    "azure.caBundle.",
    "reconcile.",
    "heal.",
    "webhook.",
    "guardPolicy.",
    "fallbackPolicy.",
    "certificates.",
    "certificates.certManager.",
    "certificates.existingSecret.",
    "image.",
    "serviceAccount.",
    "log.",
    "tracing.",
    "podDisruptionBudget.",
    "readinessProbe.",
    "metrics.",
    "metrics.service.",
    "metrics.serviceMonitor.",
    "metrics.podMonitor.",
    "metrics.prometheusRule.",
    "metrics.dashboard.",
    "networkPolicy.",
    "flowSchema.",
    "cleanup.",
    "livenessProbe.",
];

const REGISTRY: &str = "registries[0].name=a,registries[0].credential.static.existingSecret=b";

/// One registry entry, named `a`, with this credential.
macro_rules! credential {
    ($credential:literal) => {
        ["--set-json", concat!(r#"registries=[{"name": "a", "credential": "#, $credential, "}]")]
    };
}

/// Arguments of helm, and part of what it must answer.
pub(crate) const REFUSED: &[(&[&str], &str)] = &[
    (&["--namespace", "kube-system"], "Install this release into a namespace of its own"),
    (&["--api-versions", "v1/Pod"], "The chart needs Kubernetes 1.30 or later"),
    (
        &["--set", "servicePrincipal.existingSecret=a,servicePrincipal.clientId=b,servicePrincipal.clientSecret=c"],
        "Set either servicePrincipal.existingSecret or servicePrincipal.clientId with servicePrincipal.clientSecret",
    ),
    (&["--set", "servicePrincipal.clientId=b"], "servicePrincipal.clientId needs servicePrincipal.clientSecret"),
    (&["--set", "servicePrincipal.clientSecret=b"], "servicePrincipal.clientSecret needs servicePrincipal.clientId"),
    (
        &["--set", "servicePrincipal.existingSecret=b", "--set", REGISTRY],
        "Set either servicePrincipal or registries, not both",
    ),
    (
        &["--set", "servicePrincipal.delivery=token,servicePrincipal.clientId=b,servicePrincipal.clientSecret=c"],
        "servicePrincipal.tenantId must name the tenant",
    ),
    (
        &["--set", "servicePrincipal.existingSecret=a,servicePrincipal.certificate=true"],
        "servicePrincipal: a certificate cannot be the password in a pull secret; set delivery to token",
    ),
    (
        &["--set", "servicePrincipal.existingSecret=a,servicePrincipal.certificatePassword=true"],
        "servicePrincipal: there is a password for a certificate, but no certificate",
    ),
    (
        &[
            "--set",
            "servicePrincipal.delivery=token,servicePrincipal.clientId=b,servicePrincipal.clientSecret=c",
            "--set",
            "servicePrincipal.tenantId=t,servicePrincipal.certificate=true",
        ],
        "servicePrincipal.certificate needs servicePrincipal.existingSecret",
    ),
    (&["--set", "servicePrincipal.tenantId=a/b"], "'a/b' does not match pattern"),
    (
        &["--set", "servicePrincipal.existingSecret=a,servicePrincipal.endDateTime=soon"],
        "'soon' does not match pattern",
    ),
    (
        &[
            "--set",
            "servicePrincipal.existingSecret=a,servicePrincipal.delivery=token,servicePrincipal.certificate=true",
            "--set",
            "servicePrincipal.endDateTime=2027-11-24",
        ],
        "servicePrincipal: endDateTime is of a password; a certificate says by itself when it ends",
    ),
    (
        &credential!(
            r#"{"servicePrincipal": {"clientSecretFile": "/c", "clientId": "c", "endDateTime": "2027-11-24", "endDateTimeFile": "/e"}}"#
        ),
        "set either endDateTime or endDateTimeFile, not both",
    ),
    (
        &credential!(r#"{"servicePrincipal": {"existingSecret": "c", "endDateTimeFile": "/e"}}"#),
        "set either existingSecret or files, not both",
    ),
    (&["--set", "servicePrincipal.delivery=mail"], "value must be one of 'password', 'token'"),
    (&["--set", "servicePrincipal.hosts={docker.io}"], "docker.io is no login server"),
    (
        &["--set", "servicePrincipal.hosts={contoso.azurecr.io.example}"],
        "contoso.azurecr.io.example is no login server",
    ),
    (&["--set", REGISTRY, "--set", "registries[0].hosts={a.*.azurecr.io}"], "'a.*.azurecr.io' does not match pattern"),
    (&["--set", REGISTRY, "--set", "registries[0].hosts={*.localhost}"], "*.localhost is no login server"),
    (
        &["--set", REGISTRY, "--set", "registries[1].name=a,registries[1].credential.static.existingSecret=c"],
        "the name a is used twice",
    ),
    (&["--set-json", r#"registries=[{"name": "a", "credential": {}}]"#], "a needs exactly one credential"),
    (
        &["--set", REGISTRY, "--set", "registries[0].credential.servicePrincipal.existingSecret=c"],
        "a needs exactly one",
    ),
    (
        &["--set", "registries[0].name=a,registries[0].credential.servicePrincipal.clientId=b"],
        "registries: a: set existingSecret (a Secret with the keys clientId and clientSecret), or clientSecretFile",
    ),
    (
        &["--set", "registries[0].name=a,registries[0].credential.static.username=b"],
        "registries: a: set existingSecret (a Secret with the keys username and password), or passwordFile",
    ),
    (
        &["--set", REGISTRY, "--set", "registries[0].credential.static.passwordFile=/c"],
        "either existingSecret or files",
    ),
    (
        &credential!(r#"{"servicePrincipal": {"clientSecretFile": "/b", "clientId": "c", "delivery": "token"}}"#),
        "a: delivery is token, so tenantId or tenantIdFile must name the tenant",
    ),
    (
        &credential!(
            r#"{"servicePrincipal": {"clientSecretFile": "/b", "clientCertificateFile": "/c", "clientId": "c", "delivery": "token"}}"#
        ),
        "set either clientSecretFile or clientCertificateFile",
    ),
    (
        &credential!(r#"{"servicePrincipal": {"clientCertificateFile": "/c", "clientId": "c"}}"#),
        "a: a certificate cannot be the password",
    ),
    (
        &credential!(
            r#"{"servicePrincipal": {"clientSecretFile": "/c", "clientCertificatePasswordFile": "/d", "clientId": "c"}}"#
        ),
        "a: there is a password for a certificate, but no certificate",
    ),
    (
        &credential!(
            r#"{"servicePrincipal": {"clientSecretFile": "/c", "clientId": "c", "certificate": true, "delivery": "token"}}"#
        ),
        "a: certificate and certificatePassword speak of keys of existingSecret",
    ),
    (
        &credential!(r#"{"servicePrincipal": {"existingSecret": "c", "tenantId": "t", "tenantIdFile": "/t"}}"#),
        "set either tenantId or tenantIdFile",
    ),
    (
        &credential!(r#"{"servicePrincipal": {"existingSecret": "c", "tenantIdFile": "/t"}}"#),
        "set either existingSecret or files",
    ),
    (&credential!(r#"{"workloadIdentity": {"clientId": "t"}}"#), "a: workloadIdentity needs tenantId and clientId"),
    (&credential!(r#"{"workloadIdentity": {}}"#), "a: workloadIdentity needs tenantId and clientId"),
    (
        &credential!(r#"{"workloadIdentity": {"tenantId": "t", "clientId": "c", "clientIdFile": "/d"}}"#),
        "set either clientId or clientIdFile",
    ),
    (
        &credential!(r#"{"workloadIdentity": {"tenantId": "t", "clientId": "c", "tokenFile": "/d", "audience": "e"}}"#),
        "with tokenFile there is none",
    ),
    (&credential!(r#"{"managedIdentity": {}, "static": {"existingSecret": "c"}}"#), "a needs exactly one credential"),
    (&credential!(r#"{"static": {}}"#), "a: set existingSecret (a Secret with the keys username and password)"),
    (
        &["--set", "azure.caBundle.configMapName=a,azure.caBundle.secretName=b"],
        "azure.caBundle: set either configMapName or secretName",
    ),
    (&["--set", "azure.authorityHost=http://login.example"], "'http://login.example' does not match pattern"),
    (&["--set", "azure.scope=https://x"], "'https://x' does not match pattern"),
    (&["--set", "reconcile.writesPerSecond=0"], "minimum: got 0, want 1"),
    (&["--set", "fallbackPolicy.enabled=maybe"], "value must be one of 'auto', true, false"),
    (
        &[
            "--set",
            "registries[0].name=a,registries[0].credential.servicePrincipal.clientSecretFile=/b",
            "--set",
            "registries[0].credential.servicePrincipal.clientId=c,registries[0].credential.servicePrincipal.clientIdFile=/d",
        ],
        "set either clientId or clientIdFile",
    ),
    (
        &[
            "--set",
            REGISTRY,
            "--set",
            "registries[0].namespaces.matchExpressions[0].key=a",
            "--set",
            "registries[0].namespaces.matchExpressions[0].operator=In",
        ],
        "missing property 'values'",
    ),
    (&["--set", "azure.extraSuffixes={.localhost}"], "'.localhost' does not match pattern"),
    (&["--set", "pullSecretName=Not_a_name"], "'Not_a_name' does not match pattern"),
    (&["--set", "replicaCount=0"], "replicaCount must be at least 1"),
    (&["--set", "webhook.timeoutSeconds=2"], "webhook.ensureTimeout must be shorter than webhook.timeoutSeconds"),
    (&["--set", "webhook.timeoutSeconds=31"], "maximum: got 31, want 30"),
    (&["--set", "webhook.ensureTimeout=9ms"], "webhook.ensureTimeout must be at least 10ms"),
    (&["--set", "webhook.ensureTimeout=26s,webhook.timeoutSeconds=30"], "webhook.ensureTimeout must be at most 25s"),
    (&["--set", "webhook.failurePolicy=Maybe"], "value must be one of 'Ignore', 'Fail'"),
    (&["--set", "webhook.port=8080"], "webhook.port and adminPort must differ"),
    (&["--set", "terminationGracePeriodSeconds=24"], "must be at least 10 more than drainSeconds"),
    (
        &["--set", "webhook.ensureTimeout=5001ms,webhook.timeoutSeconds=6,terminationGracePeriodSeconds=25"],
        "must be at least 11 more than drainSeconds",
    ),
    (
        &["--set", "webhook.ensureTimeout=25s,webhook.timeoutSeconds=30,terminationGracePeriodSeconds=44"],
        "must be at least 30 more than drainSeconds",
    ),
    (&["--set", "serviceAccount.create=false"], "serviceAccount.name must name an existing ServiceAccount"),
    (&["--set", "podDisruptionBudget.minAvailable=1"], "takes either maxUnavailable or minAvailable"),
    (&["--set", "podDisruptionBudget.maxUnavailable=null"], "needs maxUnavailable or minAvailable"),
    (&["--set", "certificates.source=vault"], "value must be one of 'selfManaged', 'certManager', 'existingSecret'"),
    (&["--set", "certificates.source=certManager"], "does not have the API cert-manager.io/v1"),
    (&["--set", "certificates.source=existingSecret"], "certificates.existingSecret.name must name"),
    (
        &["--set", "certificates.source=existingSecret,certificates.existingSecret.name=a"],
        "certificates.existingSecret.caBundle must hold the PEM certificates",
    ),
    (&["--set", "certificates.existingSecret.name=a"], "certificates.source is not existingSecret"),
    (
        &["--set", "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true"],
        "enable either serviceMonitor or podMonitor",
    ),
    (
        &["--set", "metrics.serviceMonitor.enabled=true,metrics.service.enabled=false"],
        "metrics.serviceMonitor finds pods through metrics.service, which is off",
    ),
    (&["--set", "metrics.serviceMonitor.enabled=true"], "does not have the API monitoring.coreos.com/v1"),
    (&["--set", "metrics.podMonitor.enabled=true"], "does not have the API monitoring.coreos.com/v1"),
    (&["--set", "metrics.prometheusRule.enabled=true"], "does not have the API monitoring.coreos.com/v1"),
    (&["--set", "networkPolicy.enabled=true,hostNetwork=true"], "networkPolicy has no effect on pods"),
    (&["--set", "networkPolicy.webhookCidrs={10.0.0.1}"], "'10.0.0.1' does not match pattern"),
    (&["--set", "flowSchema.matchingPrecedence=9000"], "maximum: got 9,000, want 8,999"),
];
