//! Each value of values.yaml has an effect: one row per value, and no value without a row.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::render::{Objects, chart_directory, render};

/// What a value does.
struct Effect {
    /// The value's path in values.yaml, or the path of a map whose keys are free.
    value: &'static str,
    /// What to set (`--set`), this value and those it depends on.
    set: &'static [&'static str],
    /// `Kind/name` of the object that shows it.
    object: &'static str,
    /// Where in the object.
    pointer: &'static str,
    /// What is there then and is not there by default.
    expected: &'static str,
}

const fn effect(
    value: &'static str,
    set: &'static [&'static str],
    object: &'static str,
    pointer: &'static str,
    expected: &'static str,
) -> Effect {
    Effect { value, set, object, pointer, expected }
}

const DEPLOYMENT: &str = "Deployment/acr-pull-injector";
const CONFIG: &str = "ConfigMap/acr-pull-injector";
const WEBHOOK: &str = "MutatingWebhookConfiguration/acr-pull-injector";
const GUARD: &str = "ValidatingAdmissionPolicy/acr-pull-injector-guard";
const BUDGET: &str = "PodDisruptionBudget/acr-pull-injector";
const CERTIFICATE: &str = "Certificate/acr-pull-injector-serving-certificate";
const MONITOR: &str = "ServiceMonitor/acr-pull-injector";
const PODS_MONITOR: &str = "PodMonitor/acr-pull-injector";
const RULE: &str = "PrometheusRule/acr-pull-injector";
const DASHBOARD: &str = "ConfigMap/acr-pull-injector-dashboard";
const NETWORK: &str = "NetworkPolicy/acr-pull-injector";
const FLOW: &str = "FlowSchema/acr-pull-injector";
const SERVICE_MONITOR: &str = "metrics.serviceMonitor.enabled=true";
const POD_MONITOR: &str = "metrics.podMonitor.enabled=true";
const ALERTS: &str = "metrics.prometheusRule.enabled=true";
const FENCE: &str = "networkPolicy.enabled=true";
const BY_CERT_MANAGER: &str = "certificates.source=certManager";

#[rustfmt::skip]
const EFFECTS: &[Effect] = &[
    effect("pullSecretName", &["pullSecretName=x"], CONFIG, "/data/config.yaml/pullSecretName", r#""x""#),
    effect("pullSecretName", &["pullSecretName=x"], "ClusterRole/acr-pull-injector", "/rules/0/resourceNames", r#"["x"]"#),
    effect("pullSecretName", &["pullSecretName=x"], GUARD, "/spec/validations/0/expression", r#""variables.written.metadata.name == 'x'""#),
    effect("pullSecretName", &["pullSecretName=x"], DEPLOYMENT, "/spec/template/metadata/annotations/acr-pull-injector.io~1pull-secret-name", r#""x""#),
    effect("servicePrincipal.existingSecret", &["servicePrincipal.existingSecret=x"], DEPLOYMENT, "/spec/template/spec/volumes/1/secret/secretName", r#""x""#),
    effect("servicePrincipal.existingSecret", &["servicePrincipal.existingSecret=x"], CONFIG, "/data/config.yaml/registries/0/credential/servicePrincipal/clientIdFile", r#""/etc/acr-pull-injector/credentials/default/2d711642/clientId""#),
    effect("servicePrincipal.clientId", &["servicePrincipal.clientId=id", "servicePrincipal.clientSecret=x"], "Secret/acr-pull-injector-service-principal", "/data/clientId", r#""aWQ=""#),
    effect("servicePrincipal.clientSecret", &["servicePrincipal.clientId=id", "servicePrincipal.clientSecret=x"], "Secret/acr-pull-injector-service-principal", "/data/clientSecret", r#""eA==""#),
    effect("servicePrincipal.clientSecret", &["servicePrincipal.clientId=id", "servicePrincipal.clientSecret=x"], DEPLOYMENT, "/spec/template/spec/volumes/1/secret/secretName", r#""acr-pull-injector-service-principal""#),
    effect("servicePrincipal.hosts", &["servicePrincipal.existingSecret=x", "servicePrincipal.hosts={contoso.azurecr.io}"], CONFIG, "/data/config.yaml/registries/0/hosts", r#"["contoso.azurecr.io"]"#),
    effect("servicePrincipal.delivery", &["servicePrincipal.existingSecret=x", "servicePrincipal.delivery=token"], CONFIG, "/data/config.yaml/registries/0/credential/servicePrincipal/delivery", r#""token""#),
    effect("servicePrincipal.tenantId", &["servicePrincipal.existingSecret=x", "servicePrincipal.tenantId=t"], CONFIG, "/data/config.yaml/registries/0/credential/servicePrincipal/tenantId", r#""t""#),
    effect("servicePrincipal.endDateTime", &["servicePrincipal.existingSecret=x", "servicePrincipal.endDateTime=2027-11-24"], CONFIG, "/data/config.yaml/registries/0/credential/servicePrincipal/endDateTime", r#""2027-11-24""#),
    effect("servicePrincipal.endDateTime", &["servicePrincipal.existingSecret=x"], CONFIG, "/data/config.yaml/registries/0/credential/servicePrincipal/endDateTimeFile", r#""/etc/acr-pull-injector/credentials/default/2d711642/endDateTime""#),
    effect("servicePrincipal.certificate", &["servicePrincipal.existingSecret=x", "servicePrincipal.delivery=token", "servicePrincipal.certificate=true"], CONFIG, "/data/config.yaml/registries/0/credential/servicePrincipal/clientCertificateFile", r#""/etc/acr-pull-injector/credentials/default/2d711642/clientCertificate""#),
    effect("servicePrincipal.certificatePassword", &["servicePrincipal.existingSecret=x", "servicePrincipal.delivery=token", "servicePrincipal.certificate=true", "servicePrincipal.certificatePassword=true"], CONFIG, "/data/config.yaml/registries/0/credential/servicePrincipal/clientCertificatePasswordFile", r#""/etc/acr-pull-injector/credentials/default/2d711642/clientCertificatePassword""#),
    effect("registries", &["registries[0].name=a", "registries[0].credential.servicePrincipal.existingSecret=x", "registries[0].credential.servicePrincipal.clientId=id", "registries[0].namespaces.names={n}"], CONFIG, "/data/config.yaml/registries/0", r#"{"name": "a", "namespaces": {"names": ["n"]}, "credential": {"servicePrincipal": {"clientId": "id", "clientSecretFile": "/etc/acr-pull-injector/credentials/a/2d711642/clientSecret", "endDateTimeFile": "/etc/acr-pull-injector/credentials/a/2d711642/endDateTime"}}}"#),
    effect("registries", &["registries[0].name=a", "registries[0].credential.static.existingSecret=x", "registries[0].credential.static.username=u"], CONFIG, "/data/config.yaml/registries/0/credential/static", r#"{"username": "u", "passwordFile": "/etc/acr-pull-injector/credentials/a/2d711642/password"}"#),
    effect("registries", &["registries[0].name=a", "registries[0].credential.static.usernameFile=/u", "registries[0].credential.static.passwordFile=/p"], CONFIG, "/data/config.yaml/registries/0/credential/static", r#"{"usernameFile": "/u", "passwordFile": "/p"}"#),
    effect("azure.extraSuffixes", &["azure.extraSuffixes={localhost}"], CONFIG, "/data/config.yaml/azure/extraSuffixes", r#"["localhost"]"#),
    effect("azure.authorityHost", &["azure.authorityHost=https://login.example"], CONFIG, "/data/config.yaml/azure/authorityHost", r#""https://login.example""#),
    effect("azure.scope", &["azure.scope=https://x/.default"], CONFIG, "/data/config.yaml/azure/scope", r#""https://x/.default""#),
    effect("azure.caBundle.configMapName", &["azure.caBundle.configMapName=x"], DEPLOYMENT, "/spec/template/spec/volumes/1/configMap/name", r#""x""#),
    effect("azure.caBundle.secretName", &["azure.caBundle.secretName=x"], DEPLOYMENT, "/spec/template/spec/volumes/1/secret/secretName", r#""x""#),
    effect("azure.caBundle.key", &["azure.caBundle.secretName=x", "azure.caBundle.key=k"], CONFIG, "/data/config.yaml/azure/caFile", r#""/etc/acr-pull-injector/ca/k""#),
    effect("reconcile.writesPerSecond", &["reconcile.writesPerSecond=7"], CONFIG, "/data/config.yaml/reconcile/writesPerSecond", "7"),
    effect("heal.evictStuckPods", &["heal.evictStuckPods=true"], CONFIG, "/data/config.yaml/heal/evictStuckPods", "true"),
    effect("webhook.failurePolicy", &["webhook.failurePolicy=Fail"], WEBHOOK, "/webhooks/0/failurePolicy", r#""Fail""#),
    effect("webhook.timeoutSeconds", &["webhook.timeoutSeconds=7"], WEBHOOK, "/webhooks/0/timeoutSeconds", "7"),
    effect("webhook.ensureTimeout", &["webhook.ensureTimeout=300ms"], CONFIG, "/data/config.yaml/admission/ensureTimeout", r#""300ms""#),
    effect("webhook.excludedNamespaces", &["webhook.excludedNamespaces={x,kube-system}"], WEBHOOK, "/webhooks/0/namespaceSelector/matchExpressions/1/values", r#"["kube-system", "kube-node-lease", "acr-pull-injector", "x"]"#),
    effect("webhook.excludedNamespaces", &["webhook.excludedNamespaces={x}"], CONFIG, "/data/config.yaml/admission/excludedNamespaces", r#"["kube-system", "kube-node-lease", "acr-pull-injector", "x"]"#),
    effect("webhook.configurationName", &["webhook.configurationName=zz"], "MutatingWebhookConfiguration/zz", "/metadata/name", r#""zz""#),
    effect("webhook.configurationName", &["webhook.configurationName=zz"], DEPLOYMENT, "/spec/template/spec/containers/0/flags/--webhook-configuration", r#""zz""#),
    effect("webhook.labels", &["webhook.labels.a=b"], WEBHOOK, "/metadata/labels/a", r#""b""#),
    effect("webhook.annotations", &["webhook.annotations.a=b"], WEBHOOK, "/metadata/annotations/a", r#""b""#),
    effect("webhook.port", &["webhook.port=9443"], DEPLOYMENT, "/spec/template/spec/containers/0/ports/0/containerPort", "9443"),
    effect("webhook.port", &["webhook.port=9443"], DEPLOYMENT, "/spec/template/spec/containers/0/flags/--webhook-address", r#""[::]:9443""#),
    effect("webhook.servicePort", &["webhook.servicePort=8443"], WEBHOOK, "/webhooks/0/clientConfig/service/port", "8443"),
    effect("webhook.servicePort", &["webhook.servicePort=8443"], "Service/acr-pull-injector", "/spec/ports/0/port", "8443"),
    effect("fallbackPolicy.enabled", &["servicePrincipal.existingSecret=x", "fallbackPolicy.enabled=true"], "MutatingAdmissionPolicyBinding/acr-pull-injector-fallback", "/spec/policyName", r#""acr-pull-injector-fallback""#),
    effect("certificates.source", &[BY_CERT_MANAGER], DEPLOYMENT, "/spec/template/spec/containers/0/flags/--certificate-source", r#""files""#),
    effect("certificates.certManager.issuerRef", &[BY_CERT_MANAGER, "certificates.certManager.issuerRef.name=x"], CERTIFICATE, "/spec/issuerRef", r#"{"name": "x"}"#),
    effect("certificates.certManager.duration", &[BY_CERT_MANAGER, "certificates.certManager.duration=48h"], CERTIFICATE, "/spec/duration", r#""48h""#),
    effect("certificates.certManager.renewBefore", &[BY_CERT_MANAGER, "certificates.certManager.renewBefore=4h"], CERTIFICATE, "/spec/renewBefore", r#""4h""#),
    effect("certificates.existingSecret.name", &["certificates.source=existingSecret", "certificates.existingSecret.name=x", "certificates.existingSecret.caBundle=BEGIN CERTIFICATE"], DEPLOYMENT, "/spec/template/spec/volumes/1/secret/secretName", r#""x""#),
    effect("certificates.existingSecret.caBundle", &["certificates.source=existingSecret", "certificates.existingSecret.name=x", "certificates.existingSecret.caBundle=BEGIN CERTIFICATE"], WEBHOOK, "/webhooks/0/clientConfig/caBundle", r#""QkVHSU4gQ0VSVElGSUNBVEU=""#),
    effect("replicaCount", &["replicaCount=5"], DEPLOYMENT, "/spec/replicas", "5"),
    effect("image.repository", &["image.repository=r"], DEPLOYMENT, "/spec/template/spec/containers/0/image", r#""r:0.1.0""#),
    effect("image.tag", &["image.repository=r", "image.tag=t"], DEPLOYMENT, "/spec/template/spec/containers/0/image", r#""r:t""#),
    effect("image.digest", &["image.repository=r", "image.tag=t", "image.digest=sha256:0123456789012345678901234567890123456789012345678901234567890123"], DEPLOYMENT, "/spec/template/spec/containers/0/image", r#""r@sha256:0123456789012345678901234567890123456789012345678901234567890123""#),
    effect("image.pullPolicy", &["image.pullPolicy=Always"], DEPLOYMENT, "/spec/template/spec/containers/0/imagePullPolicy", r#""Always""#),
    effect("imagePullSecrets", &["imagePullSecrets[0].name=x"], DEPLOYMENT, "/spec/template/spec/imagePullSecrets", r#"[{"name": "x"}]"#),
    effect("nameOverride", &["nameOverride=x"], "Service/acr-pull-injector-x", "/spec/selector/app.kubernetes.io~1name", r#""x""#),
    effect("fullnameOverride", &["fullnameOverride=x"], "MutatingWebhookConfiguration/x", "/webhooks/0/clientConfig/service/name", r#""x""#),
    effect("commonLabels", &["commonLabels.a=b"], "Service/acr-pull-injector", "/metadata/labels/a", r#""b""#),
    effect("serviceAccount.create", &["serviceAccount.create=false", "serviceAccount.name=x"], DEPLOYMENT, "/spec/template/spec/serviceAccountName", r#""x""#),
    effect("serviceAccount.name", &["serviceAccount.name=x"], "ServiceAccount/x", "/metadata/name", r#""x""#),
    effect("serviceAccount.annotations", &["serviceAccount.annotations.a=b"], "ServiceAccount/acr-pull-injector", "/metadata/annotations", r#"{"a": "b"}"#),
    effect("log.level", &["log.level=info\\,kube=debug"], DEPLOYMENT, "/spec/template/spec/containers/0/flags/--log-level", r#""info,kube=debug""#),
    effect("log.format", &["log.format=text"], DEPLOYMENT, "/spec/template/spec/containers/0/flags/--log-format", r#""text""#),
    effect("tracing.otlpEndpoint", &["tracing.otlpEndpoint=http://collector:4318"], DEPLOYMENT, "/spec/template/spec/containers/0/env/1", r#"{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}"#),
    effect("listenAddress", &["listenAddress=0.0.0.0"], DEPLOYMENT, "/spec/template/spec/containers/0/flags/--webhook-address", r#""0.0.0.0:8443""#),
    effect("adminPort", &["adminPort=9090"], DEPLOYMENT, "/spec/template/spec/containers/0/flags/--admin-address", r#""[::]:9090""#),
    effect("adminPort", &["adminPort=9090"], DEPLOYMENT, "/spec/template/spec/containers/0/ports/1/containerPort", "9090"),
    effect("drainSeconds", &["drainSeconds=7"], DEPLOYMENT, "/spec/template/spec/containers/0/flags/--drain", r#""7s""#),
    effect("terminationGracePeriodSeconds", &["terminationGracePeriodSeconds=60"], DEPLOYMENT, "/spec/template/spec/terminationGracePeriodSeconds", "60"),
    effect("resources", &["resources.limits.cpu=2"], DEPLOYMENT, "/spec/template/spec/containers/0/resources/limits/cpu", "2"),
    effect("strategy", &["strategy.rollingUpdate.maxSurge=3"], DEPLOYMENT, "/spec/strategy/rollingUpdate/maxSurge", "3"),
    effect("podDisruptionBudget.maxUnavailable", &["podDisruptionBudget.maxUnavailable=0"], BUDGET, "/spec/maxUnavailable", "0"),
    effect("podDisruptionBudget.minAvailable", &["podDisruptionBudget.maxUnavailable=null", "podDisruptionBudget.minAvailable=0"], BUDGET, "/spec/minAvailable", "0"),
    effect("podDisruptionBudget.minAvailable", &["podDisruptionBudget.maxUnavailable=null", "podDisruptionBudget.minAvailable=50%"], BUDGET, "/spec/minAvailable", r#""50%""#),
    effect("topologySpreadConstraints", &["topologySpreadConstraints[0].topologyKey=rack", "topologySpreadConstraints[0].maxSkew=2", "topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule"], DEPLOYMENT, "/spec/template/spec/topologySpreadConstraints", r#"[{"topologyKey": "rack", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "acr-pull-injector", "app.kubernetes.io/instance": "acr-pull-injector"}}}]"#),
    effect("nodeSelector", &["nodeSelector.a=b"], DEPLOYMENT, "/spec/template/spec/nodeSelector/a", r#""b""#),
    effect("tolerations", &["tolerations[0].operator=Exists"], DEPLOYMENT, "/spec/template/spec/tolerations", r#"[{"operator": "Exists"}]"#),
    effect("affinity", &["affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=x"], DEPLOYMENT, "/spec/template/spec/affinity", r#"{"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "x"}]}}"#),
    effect("priorityClassName", &["priorityClassName=x"], DEPLOYMENT, "/spec/template/spec/priorityClassName", r#""x""#),
    effect("hostNetwork", &["hostNetwork=true"], DEPLOYMENT, "/spec/template/spec/hostNetwork", "true"),
    effect("hostNetwork", &["hostNetwork=true"], DEPLOYMENT, "/spec/template/spec/dnsPolicy", r#""ClusterFirstWithHostNet""#),
    effect("podSecurityContext", &["podSecurityContext.runAsUser=7"], DEPLOYMENT, "/spec/template/spec/securityContext/runAsUser", "7"),
    effect("securityContext", &["securityContext.privileged=false"], DEPLOYMENT, "/spec/template/spec/containers/0/securityContext/privileged", "false"),
    effect("livenessProbe", &["livenessProbe.failureThreshold=9"], DEPLOYMENT, "/spec/template/spec/containers/0/livenessProbe/failureThreshold", "9"),
    effect("readinessProbe", &["readinessProbe.periodSeconds=9"], DEPLOYMENT, "/spec/template/spec/containers/0/readinessProbe/periodSeconds", "9"),
    effect("podLabels", &["podLabels.a=b"], DEPLOYMENT, "/spec/template/metadata/labels/a", r#""b""#),
    effect("podAnnotations", &["podAnnotations.a=b"], DEPLOYMENT, "/spec/template/metadata/annotations/a", r#""b""#),
    effect("serviceAnnotations", &["serviceAnnotations.a=b"], "Service/acr-pull-injector", "/metadata/annotations", r#"{"a": "b"}"#),
    effect("extraEnv", &["extraEnv[0].name=A", "extraEnv[0].value=b"], DEPLOYMENT, "/spec/template/spec/containers/0/env/1", r#"{"name": "A", "value": "b"}"#),
    effect("extraVolumes", &["extraVolumes[0].name=a"], DEPLOYMENT, "/spec/template/spec/volumes/1", r#"{"name": "a"}"#),
    effect("extraVolumeMounts", &["extraVolumeMounts[0].name=a", "extraVolumeMounts[0].mountPath=/b"], DEPLOYMENT, "/spec/template/spec/containers/0/volumeMounts/1", r#"{"name": "a", "mountPath": "/b"}"#),
    effect("metrics.service.annotations", &["metrics.service.annotations.a=b"], "Service/acr-pull-injector-metrics", "/metadata/annotations", r#"{"a": "b"}"#),
    effect("metrics.serviceMonitor.enabled", &[SERVICE_MONITOR], MONITOR, "/spec/endpoints/0/port", r#""metrics""#),
    effect("metrics.serviceMonitor.labels", &[SERVICE_MONITOR, "metrics.serviceMonitor.labels.a=b"], MONITOR, "/metadata/labels/a", r#""b""#),
    effect("metrics.serviceMonitor.interval", &[SERVICE_MONITOR, "metrics.serviceMonitor.interval=7s"], MONITOR, "/spec/endpoints/0/interval", r#""7s""#),
    effect("metrics.serviceMonitor.relabelings", &[SERVICE_MONITOR, "metrics.serviceMonitor.relabelings[0].action=x"], MONITOR, "/spec/endpoints/0/relabelings", r#"[{"action": "x"}]"#),
    effect("metrics.serviceMonitor.metricRelabelings", &[SERVICE_MONITOR, "metrics.serviceMonitor.metricRelabelings[0].action=x"], MONITOR, "/spec/endpoints/0/metricRelabelings", r#"[{"action": "x"}]"#),
    effect("metrics.podMonitor.enabled", &[POD_MONITOR], PODS_MONITOR, "/spec/podMetricsEndpoints/0/port", r#""admin""#),
    effect("metrics.podMonitor.labels", &[POD_MONITOR, "metrics.podMonitor.labels.a=b"], PODS_MONITOR, "/metadata/labels/a", r#""b""#),
    effect("metrics.podMonitor.interval", &[POD_MONITOR, "metrics.podMonitor.interval=7s"], PODS_MONITOR, "/spec/podMetricsEndpoints/0/interval", r#""7s""#),
    effect("metrics.podMonitor.relabelings", &[POD_MONITOR, "metrics.podMonitor.relabelings[0].action=x"], PODS_MONITOR, "/spec/podMetricsEndpoints/0/relabelings", r#"[{"action": "x"}]"#),
    effect("metrics.podMonitor.metricRelabelings", &[POD_MONITOR, "metrics.podMonitor.metricRelabelings[0].action=x"], PODS_MONITOR, "/spec/podMetricsEndpoints/0/metricRelabelings", r#"[{"action": "x"}]"#),
    effect("metrics.prometheusRule.enabled", &[ALERTS], RULE, "/spec/groups/0/name", r#""acr-pull-injector""#),
    effect("metrics.prometheusRule.labels", &[ALERTS, "metrics.prometheusRule.labels.a=b"], RULE, "/metadata/labels/a", r#""b""#),
    effect("metrics.prometheusRule.alertLabels", &[ALERTS, "metrics.prometheusRule.alertLabels.team=x"], RULE, "/spec/groups/0/rules/0/labels", r#"{"severity": "critical", "team": "x"}"#),
    effect("metrics.prometheusRule.runbookUrl", &[ALERTS, "metrics.prometheusRule.runbookUrl=https://wiki.example/page"], RULE, "/spec/groups/0/rules/0/annotations/runbook_url", r#""https://wiki.example/page#acrpullinjectordown""#),
    effect("metrics.prometheusRule.certificateExpiryDays", &[ALERTS, "metrics.prometheusRule.certificateExpiryDays=3"], RULE, "/spec/groups/0/rules/10/expr", r#""min(acr_pull_injector_serving_certificate_expiry_timestamp_seconds{namespace=\"acr-pull-injector\"}) - time() < 3 * 86400""#),
    effect("metrics.prometheusRule.certificateExpiryDays", &[ALERTS, "metrics.prometheusRule.certificateExpiryDays=3"], RULE, "/spec/groups/0/rules/9/expr", r#""(min by (registry) (acr_pull_injector_service_principal_credential_expiry_timestamp_seconds{namespace=\"acr-pull-injector\"}) - time()) <= 7 * 86400""#),
    effect("metrics.dashboard.enabled", &["metrics.dashboard.enabled=true"], DASHBOARD, "/metadata/labels/grafana_dashboard", r#""1""#),
    effect("metrics.dashboard.labels", &["metrics.dashboard.enabled=true", "metrics.dashboard.labels.a=b"], DASHBOARD, "/metadata/labels/a", r#""b""#),
    effect("metrics.dashboard.annotations", &["metrics.dashboard.enabled=true", "metrics.dashboard.annotations.a=b"], DASHBOARD, "/metadata/annotations", r#"{"a": "b"}"#),
    effect("networkPolicy.enabled", &[FENCE], NETWORK, "/spec/podSelector/matchLabels/app.kubernetes.io~1name", r#""acr-pull-injector""#),
    effect("networkPolicy.webhookCidrs", &[FENCE, "networkPolicy.webhookCidrs={10.0.0.0/8}"], NETWORK, "/spec/ingress/0/from", r#"[{"ipBlock": {"cidr": "10.0.0.0/8"}}]"#),
    effect("networkPolicy.metricsNamespaceSelector", &[FENCE, "networkPolicy.metricsNamespaceSelector.matchLabels.a=b"], NETWORK, "/spec/ingress/1/from", r#"[{"namespaceSelector": {"matchLabels": {"a": "b"}}}]"#),
    effect("networkPolicy.apiServerPorts", &[FENCE, "networkPolicy.apiServerPorts={443,16443}"], NETWORK, "/spec/egress/1", r#"{"ports": [{"port": 443, "protocol": "TCP"}, {"port": 16443, "protocol": "TCP"}]}"#),
    effect("networkPolicy.egressCidrs", &[FENCE, "networkPolicy.egressCidrs={10.0.0.0/8}"], NETWORK, "/spec/egress/1/to", r#"[{"ipBlock": {"cidr": "10.0.0.0/8"}}]"#),
    effect("networkPolicy.extraEgress", &[FENCE, "networkPolicy.extraEgress[0].ports[0].port=3128"], NETWORK, "/spec/egress/2", r#"{"ports": [{"port": 3128}]}"#),
    effect("flowSchema.enabled", &["flowSchema.enabled=true"], FLOW, "/spec/rules/0/subjects/0/serviceAccount", r#"{"name": "acr-pull-injector", "namespace": "acr-pull-injector"}"#),
    effect("flowSchema.priorityLevel", &["flowSchema.enabled=true", "flowSchema.priorityLevel=x"], FLOW, "/spec/priorityLevelConfiguration/name", r#""x""#),
    effect("flowSchema.matchingPrecedence", &["flowSchema.enabled=true", "flowSchema.matchingPrecedence=7"], FLOW, "/spec/matchingPrecedence", "7"),
    effect("cleanup.onUninstall", &["cleanup.onUninstall=true", "pullSecretName=x"], "Job/acr-pull-injector-cleanup", "/spec/template/spec/containers/0/args", r#"["cleanup", "--pull-secret-name=x"]"#),
    effect("cleanup.onUninstall", &["cleanup.onUninstall=true", "pullSecretName=x"], "ClusterRole/acr-pull-injector-cleanup", "/rules", r#"[{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["x"], "verbs": ["list", "delete"]}]"#),
];

/// Values that take something away, or that show only on a cluster: in tests of their own, below and in `installed`.
const ELSEWHERE: [&str; 5] = [
    "guardPolicy.enabled",
    "podDisruptionBudget.enabled",
    "webhook.matchConditions",
    "metrics.service.enabled",
    "allowSecondRelease",
];

/// Every value, down to those whose keys are free.
pub(crate) fn documented_values() -> impl Iterator<Item = &'static str> {
    EFFECTS.iter().map(|effect| effect.value).chain(ELSEWHERE)
}

#[test]
fn each_value_has_its_effect() {
    let defaults = render(&[]);
    for Effect { value, set, object, pointer, expected } in EFFECTS {
        let objects = render(&arguments(set));
        let expected: Value = serde_json::from_str(expected).unwrap();
        let found = |objects: &Objects| objects.get(*object).and_then(|object| object.pointer(pointer)).cloned();
        assert_eq!(found(&objects), Some(expected.clone()), "{value}: {object} {pointer}");
        assert_ne!(found(&defaults), Some(expected), "{value}: {object} {pointer} is so by default");
    }
}

fn arguments<'a>(set: &[&'a str]) -> Vec<&'a str> {
    let pairs = set.iter().flat_map(|value| ["--set", value]);
    ["--api-versions", "cert-manager.io/v1", "--api-versions", "monitoring.coreos.com/v1"]
        .into_iter()
        .chain(pairs)
        .collect()
}

#[test]
fn no_value_is_without_a_test_of_its_effect() {
    let text = std::fs::read_to_string(chart_directory().join("values.yaml")).unwrap();
    let mut unknown = BTreeSet::new();
    collect_paths(&serde_saphyr::from_str(&text).unwrap(), "", &mut unknown);
    let known: BTreeSet<_> = documented_values().collect();
    unknown.retain(|path| !known.iter().any(|value| path == value || path.starts_with(&format!("{value}."))));
    assert_eq!(unknown, BTreeSet::new());
}

fn collect_paths(value: &Value, path: &str, paths: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(fields) if !fields.is_empty() => {
            for (key, field) in fields {
                let separator = if path.is_empty() { "" } else { "." };
                collect_paths(field, &format!("{path}{separator}{key}"), paths);
            }
        }
        _ => {
            paths.insert(path.to_owned());
        }
    }
}

#[test]
fn what_is_there_by_default_can_be_turned_off() {
    let off = "guardPolicy.enabled=false,podDisruptionBudget.enabled=false,metrics.service.enabled=false";
    let objects = render(&["--set", off]);
    let binding = "ValidatingAdmissionPolicyBinding/acr-pull-injector-guard";
    for gone in [GUARD, binding, BUDGET, "Service/acr-pull-injector-metrics"] {
        assert!(render(&[]).contains_key(gone));
        assert!(!objects.contains_key(gone), "{gone}");
    }
    let conditions = |arguments: &[&str]| -> Vec<Value> {
        let conditions = render(arguments)[WEBHOOK].pointer("/webhooks/0/matchConditions").unwrap().clone();
        conditions.as_array().unwrap().iter().map(|condition| condition["name"].clone()).collect()
    };
    assert_eq!(conditions(&[]), [json!("not-mirror-pod"), json!("has-acr-image")]);
    assert_eq!(conditions(&["--set", "webhook.matchConditions=false"]), [json!("not-mirror-pod")]);
}

#[test]
fn a_suffix_of_ones_own_is_literal_in_the_match_on_images() {
    let objects = render(&["--set", "azure.extraSuffixes={registry.example.org}"]);
    let expression = objects[WEBHOOK].pointer("/webhooks/0/matchConditions/1/expression").unwrap().as_str().unwrap();
    let pattern = "'(?i)^[^/]+[.](azurecr[.](io|cn|us)|registry[.]example[.]org)(:[0-9]+)?/'";
    assert_eq!(expression.matches(pattern).count(), 2, "{expression}");
}
