//! Image references, and the login servers that they name.
//!
//! The grammar is the one of `github.com/distribution/reference` as Kubernetes uses it (`parsers.ParseImageName`): only
//! a host that Kubernetes itself would pull from may decide which credential a pod gets. The hot path allocates
//! nothing until it has found a login server.

use std::{fmt, str::FromStr};

/// The registry that an image without a host is pulled from.
const DEFAULT_HOST: &str = "docker.io";
/// The older name of [`DEFAULT_HOST`], replaced by it while parsing.
const LEGACY_DEFAULT_HOST: &str = "index.docker.io";
/// What stands before a one-word name at [`DEFAULT_HOST`]; it counts for the length of the path.
const OFFICIAL_PREFIX: &str = "library/";
const PATH_LENGTH_MAX: usize = 255;
const TAG_LENGTH_MAX: usize = 128;
/// What the domain name system allows, of a name and of each part between its dots.
const HOST_NAME_LENGTH_MAX: usize = 253;
const LABEL_LENGTH_MAX: usize = 63;
/// The digits of 65535. The grammar lets zeros stand before a port without end.
const PORT_LENGTH_MAX: usize = 5;

/// An image reference, `[host[:port]/]path[:tag][@digest]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageReference<'a> {
    host: &'a str,
    path: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

/// Why a text is no image reference. Kubernetes refuses to pull such an image (`InvalidImageName`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageReferenceError {
    /// There is no text.
    #[error("the image is empty")]
    Empty,
    /// 64 hexadecimal digits, which would be taken for an image id.
    #[error("64 hexadecimal digits are an image id, not a name")]
    Identifier,
    /// The host or the path breaks the grammar.
    #[error("the host or the path of the image is not well formed; a path has lower case letters and digits only")]
    Name,
    /// The path has more than 255 bytes.
    #[error("the path of the image is longer than {PATH_LENGTH_MAX} characters")]
    NameTooLong,
    /// The part after `:` breaks the grammar.
    #[error("the tag is not 1 to {TAG_LENGTH_MAX} letters, digits, dots, dashes and underscores")]
    Tag,
    /// The part after `@` is not a sha256, sha384 or sha512 digest.
    #[error("the digest is not sha256, sha384 or sha512 with lower case hexadecimal digits of the right length")]
    Digest,
}

impl<'a> ImageReference<'a> {
    /// Parses what stands in `image` of a container or in `reference` of an image volume.
    pub fn parse(image: &'a str) -> Result<Self, ImageReferenceError> {
        if image.is_empty() {
            return Err(ImageReferenceError::Empty);
        }
        if image.len() == 64 && is_lower_hexadecimal(image) {
            return Err(ImageReferenceError::Identifier);
        }
        let (host, remainder) = split_host(image);
        let (named, digest) = match split_at(remainder, b'@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (remainder, None),
        };
        let (path, tag) = match split_at(named, b':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (named, None),
        };
        if !path.split('/').all(is_path_component) {
            return Err(ImageReferenceError::Name);
        }
        let implied = if host == DEFAULT_HOST && !path.contains('/') { OFFICIAL_PREFIX.len() } else { 0 };
        if implied + path.len() > PATH_LENGTH_MAX {
            return Err(ImageReferenceError::NameTooLong);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ImageReferenceError::Tag);
        }
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(ImageReferenceError::Digest);
        }
        Ok(Self { host, path, tag, digest })
    }

    /// The registry as Kubernetes derives it, spelled as in the image and with its port: `docker.io` when the image
    /// names none. Empty for the rare first part that has a dot but is no host name (`con_toso.example/app`): Kubernetes
    /// then takes it for a part of the path.
    pub fn registry_host(&self) -> &'a str {
        self.host
    }

    /// The repository as spelled, without the `library/` that Docker Hub implies.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The part after `:`.
    pub fn tag(&self) -> Option<&'a str> {
        self.tag
    }

    /// The part after `@`, with its algorithm.
    pub fn digest(&self) -> Option<&'a str> {
        self.digest
    }
}

/// A login server: the host name of an Azure container registry as an image spells it, with its port. It is the key of
/// `auths`, which the kubelet compares by letter case and port. Only [`LoginServerRule`] makes one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoginServer(String);

impl LoginServer {
    /// The host as spelled, with its port.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host in lower case, without the port: what the domain name system resolves.
    pub fn host_name(&self) -> String {
        self.spelled_name().to_ascii_lowercase()
    }

    /// The port, when one is spelled.
    pub fn port(&self) -> Option<u16> {
        split_at(&self.0, b':').and_then(|(_, port)| port.parse().ok())
    }

    /// The host as spelled, without the port.
    pub(super) fn spelled_name(&self) -> &str {
        split_at(&self.0, b':').map_or(self.as_str(), |(name, _)| name)
    }
}

impl fmt::Display for LoginServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A domain under which login servers live, in lower case: `azurecr.io`, `azurecr.sovcloud-azure.de`, `localhost`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainSuffix(String);

/// The text is no domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a domain: give it without a leading dot, wildcard, scheme or port, such as azurecr.example")]
pub struct DomainSuffixError(String);

impl DomainSuffix {
    /// The domain, without a leading dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before `.suffix` in a host name, letter case ignored.
    pub(super) fn strip_from<'a>(&self, name: &'a str) -> Option<&'a str> {
        let (front, suffix) = name.split_at_checked(name.len().checked_sub(self.0.len())?)?;
        if suffix.eq_ignore_ascii_case(&self.0) { front.strip_suffix('.') } else { None }
    }
}

impl FromStr for DomainSuffix {
    type Err = DomainSuffixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let labels = || text.split('.');
        let well_formed = text.len() <= HOST_NAME_LENGTH_MAX
            && labels().all(|label| label.len() <= LABEL_LENGTH_MAX && is_host_component(label.as_bytes()));
        // A last label of digits only would let an IPv4 address through.
        let named = labels().next_back().is_some_and(|last| last.bytes().any(|byte| byte.is_ascii_alphabetic()));
        if well_formed && named { Ok(Self(text.to_ascii_lowercase())) } else { Err(DomainSuffixError(text.to_owned())) }
    }
}

impl fmt::Display for DomainSuffix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Decides which hosts are login servers: `<name>`, `<name>-<hash>` and `<name>[-<hash>].<region>.geo` before a suffix,
/// letter case ignored.
///
/// Source: <https://learn.microsoft.com/azure/container-registry/container-registry-endpoint-reference>, and for the
/// regional form <https://learn.microsoft.com/azure/container-registry/container-registry-geo-replication>. The data
/// endpoint (`.data.`) and the private link zone are not login servers. A name has 5 to 50 letters and digits. Before an
/// extra suffix 1 to 63 are accepted, since connected and local registries are named freely. A host that is longer than any
/// in the domain name system, or whose port has more than five digits, is none either, though Kubernetes takes its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginServerRule {
    extra: Vec<DomainSuffix>,
    azure: [DomainSuffix; 3],
}

/// Why a host is no login server. The text names the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host:?} is not a login server: {fault}")]
pub struct LoginServerError {
    host: String,
    fault: LoginServerFault,
}

/// What is wrong with a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum LoginServerFault {
    #[error("give a host name such as contoso.azurecr.io, with a port if needed, and no scheme, path or address")]
    HostName,
    #[error("the host name is longer than {HOST_NAME_LENGTH_MAX} characters")]
    TooLong,
    #[error("the port is not between 1 and 65535, in at most {PORT_LENGTH_MAX} digits")]
    Port,
    #[error("it ends in none of the login server domains; add its domain to azure.extraSuffixes if it is a registry")]
    Suffix,
    #[error("only <name>, <name>-<hash> and <name>.<region>.geo may stand before the domain")]
    Name,
}

impl LoginServerRule {
    /// The public Azure clouds, and `extra` for sovereign clouds, connected registries and tests.
    pub fn new(extra: Vec<DomainSuffix>) -> Self {
        Self { extra, azure: ["azurecr.io", "azurecr.cn", "azurecr.us"].map(|suffix| DomainSuffix(suffix.to_owned())) }
    }

    /// The login server that an image is pulled from, or `None` when it is pulled from elsewhere or not at all.
    pub fn login_server_of(&self, image: &str) -> Option<LoginServer> {
        let host = ImageReference::parse(image).ok()?.registry_host();
        self.check(host).ok().map(|()| LoginServer(host.to_owned()))
    }

    /// A login server given alone as `host[:port]`, in a configuration or an annotation.
    pub fn parse(&self, host: &str) -> Result<LoginServer, LoginServerError> {
        match self.check(host) {
            Ok(()) => Ok(LoginServer(host.to_owned())),
            Err(fault) => Err(LoginServerError { host: host.to_owned(), fault }),
        }
    }

    /// Every suffix that counts.
    pub fn suffixes(&self) -> impl Iterator<Item = &DomainSuffix> {
        self.azure.iter().chain(&self.extra)
    }

    fn check(&self, host: &str) -> Result<(), LoginServerFault> {
        let (name, port) = split_port(host).ok_or(LoginServerFault::HostName)?;
        if name.len() > HOST_NAME_LENGTH_MAX {
            return Err(LoginServerFault::TooLong);
        }
        let mut fault = LoginServerFault::Suffix;
        for (suffix, lengths) in
            self.azure.iter().map(|suffix| (suffix, 5..=50)).chain(self.extra.iter().map(|suffix| (suffix, 1..=63)))
        {
            let Some(front) = suffix.strip_from(name) else { continue };
            if is_registry(front, &lengths) {
                return if port.is_none_or(is_port) { Ok(()) } else { Err(LoginServerFault::Port) };
            }
            fault = LoginServerFault::Name;
        }
        Err(fault)
    }
}

impl Default for LoginServerRule {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// Is this what stands before the suffix of a login server?
fn is_registry(front: &str, lengths: &std::ops::RangeInclusive<usize>) -> bool {
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_name = |label: &str| {
        let (name, hash) = split_at(label, b'-').map_or((label, None), |(name, hash)| (name, Some(hash)));
        label.len() <= LABEL_LENGTH_MAX && lengths.contains(&name.len()) && is_word(name) && hash.is_none_or(is_word)
            // The zone of private endpoints, not a registry.
            && !label.eq_ignore_ascii_case("privatelink")
    };
    match split_at(front, b'.') {
        None => is_name(front),
        Some((name, place)) => {
            let region = place.rsplit_once('.').filter(|(_, last)| last.eq_ignore_ascii_case("geo"));
            is_name(name) && region.is_some_and(|(region, _)| region.len() <= LABEL_LENGTH_MAX && is_word(region))
        }
    }
}

/// Splits off the registry, by the rules of `splitDockerDomain` and of the grammar behind it.
fn split_host(image: &str) -> (&str, &str) {
    let Some((first, rest)) = split_at(image, b'/') else { return (DEFAULT_HOST, image) };
    let looks_like_host =
        first == "localhost" || first.bytes().any(|byte| matches!(byte, b'.' | b':') || byte.is_ascii_uppercase());
    if !looks_like_host {
        (DEFAULT_HOST, image)
    } else if first == LEGACY_DEFAULT_HOST {
        (DEFAULT_HOST, rest)
    } else if split_port(first).is_some() || first.starts_with('[') && is_bracketed_address(first) {
        (first, rest)
    } else {
        ("", image)
    }
}

/// Splits `name[:port]`, if the name has the form of a host name and the port is all digits.
fn split_port(host: &str) -> Option<(&str, Option<&str>)> {
    let (name, port) = split_at(host, b':').map_or((host, None), |(name, port)| (name, Some(port)));
    let well_formed = name.as_bytes().split(|byte| *byte == b'.').all(is_host_component);
    (well_formed && port.is_none_or(is_number)).then_some((name, port))
}

/// `[IPv6 address]` with an optional port. The grammar looks at the characters only.
fn is_bracketed_address(host: &str) -> bool {
    let Some((address, port)) = host.strip_prefix('[').and_then(|rest| split_at(rest, b']')) else { return false };
    !address.is_empty()
        && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
        && (port.is_empty() || port.strip_prefix(':').is_some_and(is_number))
}

/// The text before the first such byte, an ASCII character, and after it. `split_once` sets up a search that pays off in
/// longer texts only.
fn split_at(text: &str, byte: u8) -> Option<(&str, &str)> {
    let at = text.bytes().position(|found| found == byte)?;
    Some((&text[..at], &text[at + 1..]))
}

fn is_host_component(label: &[u8]) -> bool {
    let [first, .., last] = label else { return label.first().is_some_and(u8::is_ascii_alphanumeric) };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && label.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// Lower case letters and digits, between them one dot, one or two underscores, or any number of dashes.
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !(bytes.first().is_some_and(is_word) && bytes.last().is_some_and(is_word)) {
        return false;
    }
    bytes
        .split(is_word)
        .all(|separator| matches!(separator, [] | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=TAG_LENGTH_MAX).contains(&tag.len())
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, encoded)) = split_at(digest, b':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    encoded.len() == length && is_lower_hexadecimal(encoded)
}

fn is_lower_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_port(digits: &str) -> bool {
    digits.len() <= PORT_LENGTH_MAX && digits.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
