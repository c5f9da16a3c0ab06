//! Values that must be refused, and values that several tests share.

/// A certificate that the user provides.
pub(crate) const OWN_CERTIFICATE: [&str; 4] = [
    "--set",
    "certificates.source=existingSecret,certificates.existingSecret.name=own-certificate",
    "--set",
    "certificates.existingSecret.caBundle=-----BEGIN CERTIFICATE-----",
];

/// Where the schema knows every key.
pub(crate) const CLOSED: [&str; 18] = [
    "",
    "servicePrincipal.",
    "registries[0].name=a,registries[0].",
    "registries[0].name=a,registries[0].credential.",
    "registries[0].name=a,registries[0].credential.servicePrincipal.",
    "registries[0].name=a,registries[0].credential.static.",
    "registries[0].name=a,registries[0].namespaces.",
    "azure.",
    "webhook.",
    "guardPolicy.",
    "certificates.",
    "certificates.certManager.",
    "certificates.existingSecret.",
    "image.",
    "serviceAccount.",
    "log.",
    "podDisruptionBudget.",
    "readinessProbe.",
];

const REGISTRY: &str = "registries[0].name=a,registries[0].credential.static.existingSecret=b";

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
        &["--set", "servicePrincipal.delivery=token"],
        "servicePrincipal: delivery: token is not available in this release",
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
        &[
            "--set",
            "registries[0].name=a,registries[0].credential.servicePrincipal.existingSecret=b",
            "--set",
            "registries[0].credential.servicePrincipal.delivery=token",
        ],
        "registries: a: delivery: token is not available in this release",
    ),
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
];
