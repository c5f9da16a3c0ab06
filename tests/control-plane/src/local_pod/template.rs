//! Reads a pod template: what to run, with which arguments, environment and volumes.

use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, PodTemplateSpec, ProjectedVolumeSource, ServiceAccount, Volume,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::LocalPodError;
use super::expansion::expand;
use super::mount_paths::MountPaths;
use super::volumes::{Source, VolumeDefinition};

/// Where a pod finds the token of its ServiceAccount.
pub(super) const SERVICE_ACCOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The life of a token that the ServiceAccount admission plugin mounts, in seconds.
const AUTOMATIC_TOKEN_SECONDS: i64 = 3607;
const DEFAULT_TOKEN_SECONDS: i64 = 3600;
const DEFAULT_MODE: u32 = 0o644;

/// Listen addresses that default to all interfaces, and the names of the container ports that they belong to: given
/// explicitly, so that several replicas can listen on one machine.
const LISTEN_FLAGS: [(&str, &str); 2] = [("--webhook-address", "webhook"), ("--admin-address", "admin")];

/// What the downward API knows of the pod.
#[derive(Debug, Clone)]
pub(super) struct PodFacts {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) address: IpAddr,
    pub(super) service_account: String,
}

pub(super) fn single_container(template: &PodTemplateSpec) -> Result<&Container, LocalPodError> {
    let unsupported = |what: &str| LocalPodError::Unsupported(what.to_owned());
    let spec = template.spec.as_ref().ok_or_else(|| unsupported("a pod template without a spec"))?;
    if spec.init_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
        return Err(unsupported("init containers"));
    }
    let [container] = spec.containers.as_slice() else { return Err(unsupported("other than one container")) };
    if container.env_from.as_ref().is_some_and(|sources| !sources.is_empty()) {
        return Err(unsupported("envFrom"));
    }
    Ok(container)
}

/// The volumes of the pod, with the ServiceAccount's token when it is to be mounted automatically, and where they are
/// mounted: below `root`, by their names.
pub(super) fn volumes(
    template: &PodTemplateSpec,
    facts: &PodFacts,
    account: Option<&ServiceAccount>,
    ca_pem: &str,
    root: &Path,
) -> Result<(Vec<VolumeDefinition>, MountPaths), LocalPodError> {
    let container = single_container(template)?;
    let spec = template.spec.as_ref();
    let declared = spec.and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let mut definitions =
        declared.iter().map(|volume| definition(volume, template, facts)).collect::<Result<Vec<_>, _>>()?;

    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        if mount.sub_path.is_some() || mount.sub_path_expr.is_some() {
            return Err(LocalPodError::Unsupported(format!("subPath of the mount {}", mount.name)));
        }
        mounts.push((mount.mount_path.clone(), root.join(&mount.name)));
    }
    let has_token = mounts.iter().any(|(path, _)| path.trim_end_matches('/') == SERVICE_ACCOUNT_PATH);
    let automatic = spec
        .and_then(|spec| spec.automount_service_account_token)
        .or_else(|| account.and_then(|account| account.automount_service_account_token))
        .unwrap_or(true);
    if automatic && !has_token {
        let literal = |path: &str, content: &str| Source::Literal {
            path: path.to_owned(),
            mode: None,
            content: content.to_owned(),
        };
        let token =
            Source::ServiceAccountToken { path: "token".to_owned(), audience: None, seconds: AUTOMATIC_TOKEN_SECONDS };
        let sources = vec![token, literal("ca.crt", ca_pem), literal("namespace", &facts.namespace)];
        let name = "kube-api-access".to_owned();
        mounts.push((SERVICE_ACCOUNT_PATH.to_owned(), root.join(&name)));
        definitions.push(VolumeDefinition { name, default_mode: DEFAULT_MODE, sources });
    }
    Ok((definitions, MountPaths::new(mounts)))
}

/// The environment that the template sets, in its order.
pub(super) fn environment(
    template: &PodTemplateSpec,
    facts: &PodFacts,
    mounts: &MountPaths,
) -> Result<Vec<(String, String)>, LocalPodError> {
    let mut environment: Vec<(String, String)> = Vec::new();
    for variable in single_container(template)?.env.iter().flatten() {
        let value = variable_value(variable, template, facts)?;
        let value = expand(&value, |name| value_of(&environment, name));
        environment.push((variable.name.clone(), mounts.localise(&value)));
    }
    Ok(environment)
}

/// The arguments of the program: the template's command without its first word, then its arguments.
pub(super) fn arguments(
    container: &Container,
    environment: &[(String, String)],
    mounts: &MountPaths,
    address: IpAddr,
) -> Vec<String> {
    let command = container.command.iter().flatten().skip(1);
    let written = command.chain(container.args.iter().flatten());
    let mut arguments: Vec<_> = written
        .map(|argument| expand(argument, |name| value_of(environment, name)))
        .map(|argument| at_address(&mounts.localise(&argument), address))
        .collect();
    for (flag, port_name) in LISTEN_FLAGS {
        let given = arguments.iter().any(|argument| argument.split('=').next() == Some(flag));
        let port = container_port(container, &IntOrString::String(port_name.to_owned()));
        if let (false, Some(port)) = (given, port) {
            arguments.push(format!("{flag}={}", std::net::SocketAddr::new(address, port)));
        }
    }
    arguments
}

/// A port of the container, by number or by name.
pub(super) fn container_port(container: &Container, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = |port: &&ContainerPort| port.name.as_ref() == Some(name);
            container.ports.iter().flatten().find(named)?.container_port
        }
    };
    u16::try_from(number).ok()
}

/// `[::]:8443` and `0.0.0.0:8443` mean the pod's own address here, since many pods share this machine.
fn at_address(argument: &str, address: IpAddr) -> String {
    let (flag, value) = match argument.split_once('=') {
        Some((flag, value)) => (format!("{flag}="), value),
        None => (String::new(), argument),
    };
    let port = ["[::]:", "0.0.0.0:"].iter().find_map(|any| value.strip_prefix(any)?.parse::<u16>().ok());
    port.map_or_else(|| argument.to_owned(), |port| format!("{flag}{}", std::net::SocketAddr::new(address, port)))
}

fn value_of(environment: &[(String, String)], name: &str) -> Option<String> {
    environment.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

fn variable_value(variable: &EnvVar, template: &PodTemplateSpec, facts: &PodFacts) -> Result<String, LocalPodError> {
    let Some(source) = &variable.value_from else { return Ok(variable.value.clone().unwrap_or_default()) };
    match &source.field_ref {
        Some(field) => pod_field(&field.field_path, template, facts),
        None => Err(LocalPodError::Unsupported(format!("the source of environment variable {}", variable.name))),
    }
}

fn pod_field(path: &str, template: &PodTemplateSpec, facts: &PodFacts) -> Result<String, LocalPodError> {
    let metadata = template.metadata.as_ref();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(metadata.and_then(|metadata| metadata.labels.as_ref()?.get(key).cloned()).unwrap_or_default());
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(metadata.and_then(|metadata| metadata.annotations.as_ref()?.get(key).cloned()).unwrap_or_default());
    }
    match path {
        "metadata.name" => Ok(facts.name.clone()),
        "metadata.namespace" => Ok(facts.namespace.clone()),
        "status.podIP" | "status.podIPs" => Ok(facts.address.to_string()),
        "status.hostIP" => Ok("127.0.0.1".to_owned()),
        "spec.nodeName" => Ok("localhost".to_owned()),
        "spec.serviceAccountName" => Ok(facts.service_account.clone()),
        _ => Err(LocalPodError::Unsupported(format!("the pod field {path}"))),
    }
}

/// The key in `metadata.labels['key']`.
fn subscript<'a>(path: &'a str, field: &str) -> Option<&'a str> {
    path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']")
}

fn definition(
    volume: &Volume,
    template: &PodTemplateSpec,
    facts: &PodFacts,
) -> Result<VolumeDefinition, LocalPodError> {
    let (default_mode, sources) = if let Some(map) = &volume.config_map {
        let (name, optional) = (map.name.clone(), map.optional.unwrap_or_default());
        (map.default_mode, vec![Source::ConfigMap { name, optional, items: map.items.clone() }])
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.clone().unwrap_or_default();
        let optional = secret.optional.unwrap_or_default();
        (secret.default_mode, vec![Source::Secret { name, optional, items: secret.items.clone() }])
    } else if let Some(projected) = &volume.projected {
        (projected.default_mode, projected_sources(&volume.name, projected, template, facts)?)
    } else if volume.empty_dir.is_some() {
        (None, Vec::new())
    } else {
        return Err(LocalPodError::Unsupported(format!("the type of volume {}", volume.name)));
    };
    let default_mode = default_mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE);
    Ok(VolumeDefinition { name: volume.name.clone(), default_mode, sources })
}

fn projected_sources(
    volume: &str,
    projected: &ProjectedVolumeSource,
    template: &PodTemplateSpec,
    facts: &PodFacts,
) -> Result<Vec<Source>, LocalPodError> {
    let mut sources = Vec::new();
    for source in projected.sources.iter().flatten() {
        if let Some(map) = &source.config_map {
            let (name, optional) = (map.name.clone(), map.optional.unwrap_or_default());
            sources.push(Source::ConfigMap { name, optional, items: map.items.clone() });
        } else if let Some(secret) = &source.secret {
            let (name, optional) = (secret.name.clone(), secret.optional.unwrap_or_default());
            sources.push(Source::Secret { name, optional, items: secret.items.clone() });
        } else if let Some(token) = &source.service_account_token {
            let (path, audience) = (token.path.clone(), token.audience.clone());
            let seconds = token.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
            sources.push(Source::ServiceAccountToken { path, audience, seconds });
        } else if let Some(downward) = &source.downward_api {
            for item in downward.items.iter().flatten() {
                let field = item.field_ref.as_ref().map(|field| pod_field(&field.field_path, template, facts));
                let content = field.unwrap_or_else(|| {
                    Err(LocalPodError::Unsupported(format!("resourceFieldRef in volume {volume}")))
                })?;
                let mode = item.mode.and_then(|mode| u32::try_from(mode).ok());
                sources.push(Source::Literal { path: item.path.clone(), mode, content });
            }
        } else {
            return Err(LocalPodError::Unsupported(format!("a source of the projected volume {volume}")));
        }
    }
    Ok(sources)
}
