//! What stands in `image` of a container.

use acr_pull_injector::domain::image::{ImageReference, LoginServerRule};

/// What is parsed is spelled out of the text again, and only a host that the image really names is a login server.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(image) = str::from_utf8(bytes) else { return };
    let rule = LoginServerRule::new(vec!["localhost".parse().unwrap(), "azurecr.sovcloud-azure.de".parse().unwrap()]);
    let login_server = rule.login_server_of(image);
    let reference = match ImageReference::parse(image) {
        Ok(reference) => reference,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(login_server, None, "a login server of an image that nobody can pull");
            return;
        }
    };
    spelled_as_given(&reference, image);
    let Some(login_server) = login_server else { return };
    let host = login_server.as_str();
    assert_eq!(host, reference.registry_host());
    assert!(image.strip_prefix(host).is_some_and(|rest| rest.starts_with('/')), "{host} does not stand first");
    assert_eq!(rule.parse(host).as_ref(), Ok(&login_server), "alone it is another");
    let name = login_server.host_name();
    let (spelled, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    assert_eq!(spelled.to_ascii_lowercase(), name);
    assert!(port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0)), "{host}");
    let is_host_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    assert!(name.bytes().all(is_host_byte), "{host}");
    assert!(
        name.len() <= 253 && name.split('.').all(|label| label.len() <= 63) && host.len() <= name.len() + 6,
        "{host}"
    );
    let under = |suffix: &str| name.strip_suffix(suffix).is_some_and(|front| front.len() > 1 && front.ends_with('.'));
    assert!(rule.suffixes().any(|suffix| under(suffix.as_str())), "{host} is under no suffix");
}

/// The parts give the text again, and that text the same parts.
fn spelled_as_given(reference: &ImageReference<'_>, image: &str) {
    let tag = reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    let digest = reference.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
    let rest = format!("{}{tag}{digest}", reference.path());
    let host = reference.registry_host();
    let spellings = match host {
        "" => vec![rest.clone()],
        // Docker Hub has an older name, and none is needed.
        "docker.io" => vec![rest.clone(), format!("docker.io/{rest}"), format!("index.docker.io/{rest}")],
        host => vec![format!("{host}/{rest}")],
    };
    assert!(spellings.iter().any(|spelling| spelling == image), "{image:?} was read as {reference:?}");
    let spelled = if host.is_empty() { rest } else { format!("{host}/{rest}") };
    assert_eq!(ImageReference::parse(&spelled).as_ref(), Ok(reference), "{spelled:?} is not read as {image:?} is");
}
