use proptest::prelude::*;

use super::*;

/// Kubernetes' own answers: image, tab, host; `INVALID` where it refuses the image.
fn assert_kubernetes_agrees(answers: &str, rows_at_least: usize) {
    let rows: Vec<_> = answers.lines().filter(|line| !line.starts_with("# ")).collect();
    assert!(rows.len() >= rows_at_least, "only {} rows", rows.len());
    for row in rows {
        let (image, expected) = row.split_once('\t').unwrap();
        let actual = ImageReference::parse(image).map_or("INVALID", |reference| reference.registry_host());
        assert_eq!(actual, expected, "{image:?}");
    }
}

#[test]
fn hosts_are_those_that_kubernetes_derives() {
    assert_kubernetes_agrees(include_str!("../../../tests/fixtures/image-registry.tsv"), 37);
}

/// image (quoted as JSON), tab, host or INVALID, tab, path, tab, tag, tab, digest. Made by the real parser.
#[test]
fn parts_are_those_that_kubernetes_derives() {
    let mut rows = 0;
    for row in include_str!("../../../tests/fixtures/image-registry-more.tsv").lines() {
        if row.starts_with("# ") {
            continue;
        }
        let columns: Vec<&str> = row.split('\t').collect();
        let [image, host, path, tag, digest] = columns[..] else { panic!("{row:?}") };
        let image: String = serde_json::from_str(image).unwrap();
        let actual = ImageReference::parse(&image);
        if host == "INVALID" {
            assert!(actual.is_err(), "{image:?} was parsed: {actual:?}");
        } else {
            let actual = actual.unwrap_or_else(|error| panic!("{image:?}: {error}"));
            let implied = if actual.registry_host() == DEFAULT_HOST && !actual.path().contains('/') {
                OFFICIAL_PREFIX
            } else {
                ""
            };
            let actual_parts = (
                actual.registry_host(),
                format!("{implied}{}", actual.path()),
                actual.tag().unwrap_or_default(),
                actual.digest().unwrap_or_default(),
            );
            assert_eq!(actual_parts, (host, path.to_owned(), tag, digest), "{image:?}");
        }
        rows += 1;
    }
    assert!(rows >= 2000, "only {rows} rows");
}

#[test]
fn an_error_says_which_part_is_wrong() {
    let too_long = format!("contoso.azurecr.io/{}", "a".repeat(256));
    for (image, expected) in [
        ("", ImageReferenceError::Empty),
        ("contoso.azurecr.io/App", ImageReferenceError::Name),
        (&"a".repeat(64), ImageReferenceError::Identifier),
        (&too_long, ImageReferenceError::NameTooLong),
        ("contoso.azurecr.io/app:", ImageReferenceError::Tag),
        ("contoso.azurecr.io/app@sha256:00", ImageReferenceError::Digest),
    ] {
        assert_eq!(ImageReference::parse(image), Err(expected), "{image:?}");
    }
}

fn rule_with_extra() -> LoginServerRule {
    LoginServerRule::new(vec!["localhost".parse().unwrap(), "azurecr.sovcloud-azure.de".parse().unwrap()])
}

#[test]
fn the_login_server_of_an_image() {
    let rows = [
        ("plain", "contoso.azurecr.io/app:v1", Some("contoso.azurecr.io")),
        ("China", "contoso.azurecr.cn/app", Some("contoso.azurecr.cn")),
        ("US government", "contoso.azurecr.us/app", Some("contoso.azurecr.us")),
        ("letter case kept", "CONTOSO.AzureCR.io/app", Some("CONTOSO.AzureCR.io")),
        ("port kept", "contoso.azurecr.io:443/app", Some("contoso.azurecr.io:443")),
        ("port kept as spelled", "contoso.azurecr.io:0443/app", Some("contoso.azurecr.io:0443")),
        ("domain name label", "contoso-a1b2c3d4e5f6a7b8.azurecr.io/app", Some("contoso-a1b2c3d4e5f6a7b8.azurecr.io")),
        ("regional", "contoso.eastus.geo.azurecr.io/app", Some("contoso.eastus.geo.azurecr.io")),
        ("regional, mixed case", "contoso.eastUS.GEO.azurecr.io/app", Some("contoso.eastUS.GEO.azurecr.io")),
        (
            "label and region",
            "contoso-a1b2.westeurope.geo.azurecr.io/app",
            Some("contoso-a1b2.westeurope.geo.azurecr.io"),
        ),
        ("shortest name", "abcde.azurecr.io/app", Some("abcde.azurecr.io")),
        ("extra suffix", "contoso.azurecr.sovcloud-azure.de/app", Some("contoso.azurecr.sovcloud-azure.de")),
        (
            "extra suffix, regional",
            "contoso.deloscloudgermanycentral.geo.azurecr.sovcloud-azure.de/app",
            Some("contoso.deloscloudgermanycentral.geo.azurecr.sovcloud-azure.de"),
        ),
        ("extra suffix, short name, port", "a.localhost:5443/app", Some("a.localhost:5443")),
        (
            "digest",
            "contoso.azurecr.io/app@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            Some("contoso.azurecr.io"),
        ),
        ("name too short", "abcd.azurecr.io/app", None),
        ("data endpoint", "contoso.eastus.data.azurecr.io/app", None),
        ("private link", "contoso.privatelink.azurecr.io/app", None),
        ("private link zone", "privatelink.azurecr.io/app", None),
        ("private link zone, upper case", "PrivateLink.azurecr.io/app", None),
        ("sub-domain", "sub.contoso.azurecr.io/app", None),
        ("geo without a region", "contoso.geo.azurecr.io/app", None),
        ("two regions", "contoso.eastus.westus.geo.azurecr.io/app", None),
        ("two dashes", "contoso-a1-b2.azurecr.io/app", None),
        ("suffix alone", "azurecr.io/app", None),
        ("no dot before the suffix", "xazurecr.io/app", None),
        ("suffix as a sub-domain", "contoso.azurecr.io.evil.example/app", None),
        ("suffix in the path", "evil.example/contoso.azurecr.io/app", None),
        ("suffix behind a port", "evil.example:443/contoso.azurecr.io/app", None),
        ("user information", "contoso.azurecr.io@evil.example/app", None),
        ("scheme", "https://contoso.azurecr.io/app", None),
        ("longer top level domain", "contoso.azurecr.iox/app", None),
        ("no path", "contoso.azurecr.io", None),
        ("empty path", "contoso.azurecr.io/", None),
        ("path with a query", "contoso.azurecr.io/app?x", None),
        ("underscore", "con_toso.azurecr.io/app", None),
        ("trailing dot", "contoso.azurecr.io./app", None),
        ("port zero", "contoso.azurecr.io:0/app", None),
        ("port too high", "contoso.azurecr.io:65536/app", None),
        ("IPv6 address", "[fe80::1]/contoso.azurecr.io/app", None),
        ("IPv4 address", "127.0.0.1:5000/app", None),
        ("bare localhost", "localhost/app", None),
        ("Docker Hub", "nginx", None),
        ("Microsoft's public registry", "mcr.microsoft.com/dotnet/runtime", None),
        ("leading space", " contoso.azurecr.io/app", None),
        ("trailing newline", "contoso.azurecr.io/app\n", None),
        ("letters that fold to ASCII", "contoso.azurecr.\u{131}o/app", None),
    ];
    let rule = rule_with_extra();
    for (name, image, expected) in rows {
        assert_eq!(rule.login_server_of(image).as_ref().map(LoginServer::as_str), expected, "{name}: {image}");
    }
    let longest = format!("{}.azurecr.io/app", "a".repeat(50));
    assert!(rule.login_server_of(&longest).is_some());
    assert!(rule.login_server_of(&format!("a{longest}")).is_none());
    assert!(LoginServerRule::default().login_server_of("contoso.localhost/app").is_none(), "not without its suffix");
}

#[test]
fn a_login_server_has_no_more_bytes_than_a_host_and_a_port_can_have() {
    let labels = |label: &str, count: usize| vec![label; count].join(".");
    let longest_suffix = format!("{}.{}", labels(&"s".repeat(61), 3), "s".repeat(60));
    let rule = LoginServerRule::new(vec![longest_suffix.parse().unwrap()]);
    let region = |length: usize| format!("contoso.{}.geo.azurecr.io", "r".repeat(length));
    let name = |length: usize| format!("{}.{longest_suffix}", "n".repeat(length - 1 - longest_suffix.len()));
    let port = |zeros: usize| format!("contoso.azurecr.io:{}443", "0".repeat(zeros));
    for (host, is_login_server) in [
        (region(63), true),
        (region(64), false),
        (region(8 << 20), false),
        (name(253), true),
        (name(254), false),
        (port(2), true),
        (port(3), false),
        (port(8 << 20), false),
    ] {
        let (head, length) = (&host[..host.len().min(80)], host.len());
        assert_eq!(rule.login_server_of(&format!("{host}/app")).is_some(), is_login_server, "{head} of {length} bytes");
        assert_eq!(rule.parse(&host).is_ok(), is_login_server, "{head} of {length} bytes alone");
    }
}

#[test]
fn a_host_alone() {
    let rule = rule_with_extra();
    let login_server = rule.parse("Contoso.azurecr.io:8443").unwrap();
    assert_eq!(
        (login_server.as_str(), login_server.host_name().as_str(), login_server.port()),
        ("Contoso.azurecr.io:8443", "contoso.azurecr.io", Some(8443))
    );
    assert_eq!(rule.parse("contoso.azurecr.io").unwrap().port(), None);
    for (host, part_of_the_message) in [
        ("", "give a host name"),
        ("https://contoso.azurecr.io", "give a host name"),
        ("contoso.azurecr.io/app", "give a host name"),
        ("contoso.azurecr.io:+443", "give a host name"),
        ("[::1]", "give a host name"),
        ("contoso.azurecr.io:70000", "the port is not between"),
        ("registry.example", "azure.extraSuffixes"),
        ("127.0.0.1", "azure.extraSuffixes"),
        ("contoso.eastus.data.azurecr.io", "<name>.<region>.geo"),
    ] {
        let message = rule.parse(host).unwrap_err().to_string();
        assert!(message.contains(part_of_the_message) && message.contains(&format!("{host:?}")), "{message}");
    }
}

#[test]
fn a_domain_suffix() {
    assert_eq!("AzureCR.Example".parse::<DomainSuffix>().unwrap().as_str(), "azurecr.example");
    let long_label = "a".repeat(64);
    for text in
        ["", ".azurecr.io", "azurecr.io.", "*.azurecr.io", "azurecr..io", "azurecr.io:443", "1", "0.1", &long_label]
    {
        assert!(text.parse::<DomainSuffix>().is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(image in "\\PC*") {
        let _ = ImageReference::parse(&image);
        let _ = rule_with_extra().login_server_of(&image);
        let _ = rule_with_extra().parse(&image);
        let _ = image.parse::<DomainSuffix>();
    }

    /// Characters that matter to the grammar, so that many cases parse.
    #[test]
    fn the_parts_are_the_whole_image(image in "([aA0]{1,3}[.:/@_-]{0,2}){1,8}") {
        if let Ok(reference) = ImageReference::parse(&image) {
            let mut whole = reference.path().to_owned();
            if let Some(tag) = reference.tag() { whole = format!("{whole}:{tag}"); }
            if let Some(digest) = reference.digest() { whole = format!("{whole}@{digest}"); }
            let with_host = format!("{}/{whole}", reference.registry_host());
            prop_assert!(image == whole || image == with_host, "{image:?} gave {reference:?}");
        }
    }

    /// Whoever owns a domain cannot make it look like a login server.
    #[test]
    fn a_foreign_domain_is_never_a_login_server(prefix in "[a-z0-9./:@-]{0,20}", domain in "[a-z]{1,10}\\.(example|com|io\\.example)") {
        for image in [
            format!("{domain}/{prefix}contoso.azurecr.io/app"),
            format!("{prefix}contoso.azurecr.io.{domain}/app"),
            format!("contoso.azurecr.io@{domain}/app"),
        ] {
            if let Some(login_server) = rule_with_extra().login_server_of(&image) {
                prop_assert!(!login_server.host_name().ends_with(&domain), "{image}");
                // What is left can only be a login server that stands in front of the first slash.
                prop_assert!(image.starts_with(&format!("{login_server}/")), "{image}");
            }
        }
    }
}
