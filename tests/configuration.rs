//! The configuration file: what is accepted, and what each mistake is told.

use acr_pull_injector::config::{
    AzureConfiguration, Configuration, CredentialConfiguration, CredentialFiles, DEFAULT_SCOPE, IdentityConfiguration,
    StatedEnd, Value,
};

const TENANT: &str = "11111111-2222-3333-4444-555555555555";

fn parse_credential(credential: &str) -> Result<CredentialConfiguration, String> {
    let text = format!("registries: [{{name: contoso, credential: {credential}}}]");
    let configuration = Configuration::parse(&text).map_err(|error| error.to_string())?;
    configuration.credentials.into_values().next().ok_or_else(|| "no credential".to_owned())
}

fn literal(text: &str) -> Value {
    Value::Literal(text.to_owned())
}

#[test]
fn every_credential_is_accepted() {
    let tenant = || literal(TENANT);
    for (credential, expected) in [
        (
            "{servicePrincipal: {clientId: app, clientSecretFile: /s}}".to_owned(),
            CredentialConfiguration::Stored(CredentialFiles {
                username: literal("app"),
                password_file: "/s".into(),
                end: None,
            }),
        ),
        (
            "{servicePrincipal: {tenantId: t, clientIdFile: /c, clientSecretFile: /s, delivery: password}}".to_owned(),
            CredentialConfiguration::Stored(CredentialFiles {
                username: Value::File("/c".into()),
                password_file: "/s".into(),
                end: None,
            }),
        ),
        (
            "{static: {usernameFile: /u, passwordFile: /p}}".to_owned(),
            CredentialConfiguration::Stored(CredentialFiles {
                username: Value::File("/u".into()),
                password_file: "/p".into(),
                end: None,
            }),
        ),
        (
            format!(
                "{{servicePrincipal: {{tenantId: {TENANT}, clientId: app, clientSecretFile: /s, delivery: token}}}}"
            ),
            CredentialConfiguration::Identity(IdentityConfiguration::ClientSecret {
                tenant: tenant(),
                client: literal("app"),
                secret_file: "/s".into(),
                end: None,
            }),
        ),
        (
            "{servicePrincipal: {tenantIdFile: /t, clientId: app, clientCertificateFile: /c, \
             clientCertificatePasswordFile: /p, delivery: token}}"
                .to_owned(),
            CredentialConfiguration::Identity(IdentityConfiguration::ClientCertificate {
                tenant: Value::File("/t".into()),
                client: literal("app"),
                certificate_file: "/c".into(),
                password_file: Some("/p".into()),
            }),
        ),
        (
            format!("{{workloadIdentity: {{tenantId: {TENANT}, clientId: app}}}}"),
            CredentialConfiguration::Identity(IdentityConfiguration::FederatedToken {
                tenant: tenant(),
                client: literal("app"),
                token_file: "/var/run/secrets/azure/tokens/azure-identity-token".into(),
            }),
        ),
        (
            "{workloadIdentity: {tenantId: contoso.onmicrosoft.com, clientIdFile: /c, tokenFile: /t}}".to_owned(),
            CredentialConfiguration::Identity(IdentityConfiguration::FederatedToken {
                tenant: literal("contoso.onmicrosoft.com"),
                client: Value::File("/c".into()),
                token_file: "/t".into(),
            }),
        ),
        (
            "{managedIdentity: {}}".to_owned(),
            CredentialConfiguration::Identity(IdentityConfiguration::Managed { client: None }),
        ),
        (
            "{managedIdentity: {clientId: app}}".to_owned(),
            CredentialConfiguration::Identity(IdentityConfiguration::Managed { client: Some("app".to_owned()) }),
        ),
    ] {
        assert_eq!(parse_credential(&credential), Ok(expected), "{credential}");
    }
}

#[test]
fn every_mistake_in_a_credential_names_field_and_remedy() {
    let principal = "registries[0].credential.servicePrincipal";
    for (credential, expected) in [
        ("{}", "registries[0].credential is empty: write one of servicePrincipal, workloadIdentity".to_owned()),
        (
            "{static: {username: a, passwordFile: /p}, managedIdentity: {}}",
            "registries[0].credential holds more than one credential: keep one".to_owned(),
        ),
        ("{password: secret}", "registries[0].credential.password: unknown field `password`".to_owned()),
        (
            "{servicePrincipal: {clientId: a, clientCertificateFile: /c}}",
            format!(
                "{principal}.clientCertificateFile: a certificate cannot be the password in a pull secret; set delivery: token"
            ),
        ),
        (
            "{servicePrincipal: {clientId: a, clientSecretFile: /s, clientCertificateFile: /c, delivery: token}}",
            format!("{principal}: write clientSecretFile or clientCertificateFile, not both"),
        ),
        ("{servicePrincipal: {clientId: a}}", format!("{principal}.clientSecretFile is missing")),
        ("{servicePrincipal: {clientId: a, delivery: token}}", format!("{principal}: write clientSecretFile or")),
        (
            "{servicePrincipal: {clientId: a, clientSecretFile: /s, delivery: token}}",
            format!("{principal}: tenantId or tenantIdFile is missing: tokens come from a tenant"),
        ),
        (
            "{servicePrincipal: {tenantId: t, tenantIdFile: /t, clientId: a, clientSecretFile: /s, delivery: token}}",
            format!("{principal}: write tenantId or tenantIdFile, not both"),
        ),
        (
            "{servicePrincipal: {tenantId: ../x, clientId: a, clientSecretFile: /s, delivery: token}}",
            format!("{principal}.tenantId: \"../x\" is no tenant"),
        ),
        (
            "{servicePrincipal: {clientId: a, clientSecretFile: /s, clientCertificatePasswordFile: /p}}",
            format!("{principal}.clientCertificatePasswordFile: there is no clientCertificateFile"),
        ),
        (
            "{servicePrincipal: {clientId: a, clientSecretFile: /s, endDateTime: 2027-11-24, endDateTimeFile: /e}}",
            format!("{principal}: write endDateTime or endDateTimeFile, not both"),
        ),
        (
            "{servicePrincipal: {clientId: a, clientSecretFile: /s, endDateTime: in a year}}",
            format!(
                "{principal}.endDateTime: write a moment such as 2027-11-24T08:00:00Z, or a date such as 2027-11-24"
            ),
        ),
        (
            "{servicePrincipal: {clientId: a, clientSecretFile: /s, endDateTimeFile: ''}}",
            format!("{principal}.endDateTimeFile is empty"),
        ),
        (
            "{servicePrincipal: {tenantId: t, clientId: a, clientCertificateFile: /c, delivery: token, endDateTime: \
             2027-11-24}}",
            format!("{principal}.endDateTime speaks of a secret; a certificate says by itself when it ends"),
        ),
        ("{servicePrincipal: {clientId: a, clientSecretFile: ''}}", format!("{principal}.clientSecretFile is empty")),
        ("{servicePrincipal: {clientSecretFile: /s}}", format!("{principal}: clientId or clientIdFile is missing")),
        ("{servicePrincipal: {clientId: '', clientSecretFile: /s}}", format!("{principal}.clientId is empty")),
        (
            "{servicePrincipal: {clientId: a, clientSecretFile: /s, delivery: mail}}",
            format!("{principal}.delivery: unknown variant `mail`, expected `password` or `token`"),
        ),
        ("{servicePrincipal: {clientId: a, clientSecret: s}}", format!("{principal}.clientSecret: unknown field")),
        ("{workloadIdentity: {clientId: a}}", "workloadIdentity: tenantId or tenantIdFile is missing".to_owned()),
        ("{workloadIdentity: {tenantId: t}}", "workloadIdentity: clientId or clientIdFile is missing".to_owned()),
        (
            "{workloadIdentity: {tenantId: t, clientId: a, tokenFile: ''}}",
            "workloadIdentity.tokenFile is empty".to_owned(),
        ),
        ("{managedIdentity: {clientId: ''}}", "managedIdentity.clientId is empty".to_owned()),
        ("{managedIdentity: {tenantId: t}}", "managedIdentity.tenantId: unknown field".to_owned()),
        ("{static: {username: a}}", "missing field `passwordFile`".to_owned()),
        (
            "{static: {passwordFile: /p}}",
            "registries[0].credential.static: username or usernameFile is missing".to_owned(),
        ),
    ] {
        let error = parse_credential(credential).unwrap_err();
        assert!(error.contains(&expected), "{credential}\n  {error}\n  {expected}");
    }
}

#[test]
fn the_end_of_a_secret_is_stated_as_az_shows_it_or_as_a_date() {
    let at = |moment: &str| Some(StatedEnd::At(moment.parse().unwrap()));
    for (stated, expected) in [
        ("endDateTime: 2027-11-24T08:30:00Z", at("2027-11-24T08:30:00Z")),
        ("endDateTime: '2027-11-24T08:30:00.1234567+01:00'", at("2027-11-24T07:30:00.1234567Z")),
        ("endDateTime: 2027-11-24", at("2027-11-24T00:00:00Z")),
        ("endDateTime: '2027-11-24'", at("2027-11-24T00:00:00Z")),
        ("endDateTimeFile: /e", Some(StatedEnd::File("/e".into()))),
        ("delivery: password", None),
    ] {
        let credential = format!("{{servicePrincipal: {{clientId: a, clientSecretFile: /s, {stated}}}}}");
        let CredentialConfiguration::Stored(files) = parse_credential(&credential).unwrap() else { unreachable!() };
        assert_eq!(files.end, expected, "{stated}");
        let credential = credential
            .replace("delivery: password", "tenantId: t")
            .replace("clientId: a", "tenantIdFile: /t, clientId: a, delivery: token");
        if stated.starts_with("delivery") {
            continue;
        }
        match parse_credential(&credential).unwrap() {
            CredentialConfiguration::Identity(IdentityConfiguration::ClientSecret { end, .. }) => {
                assert_eq!(end, expected, "{stated}");
            }
            other => unreachable!("{other:?}"),
        }
    }
}

#[test]
fn azure_has_defaults_for_the_public_cloud() {
    let azure = Configuration::parse("").unwrap().azure;
    assert_eq!(azure, AzureConfiguration::default());
    assert_eq!(azure.authority_host.as_str(), "https://login.microsoftonline.com/");
    assert_eq!(azure.scope, DEFAULT_SCOPE);
    assert_eq!(azure.ca_file, None);
}

#[test]
fn sovereign_clouds_are_configured() {
    let text = "azure: {authorityHost: https://login.chinacloudapi.cn, scope: https://management.chinacloudapi.cn/.default, \
                caFile: /ca.pem}";
    let azure = Configuration::parse(text).unwrap().azure;
    assert_eq!(azure.authority_host.as_str(), "https://login.chinacloudapi.cn/");
    assert_eq!(azure.scope, "https://management.chinacloudapi.cn/.default");
    assert_eq!(azure.ca_file, Some("/ca.pem".into()));
}

#[test]
fn every_mistake_in_azure_names_field_and_remedy() {
    for (azure, expected) in [
        (
            "authorityHost: http://login.example",
            "azure.authorityHost: \"http://login.example\" does not start with https://",
        ),
        ("authorityHost: login.example", "does not start with https://"),
        ("authorityHost: 'https://'", "is no address"),
        ("authorityHost: https://login.example/tenant", "holds more than a host"),
        ("authorityHost: 'https://login.example?a=b'", "holds more than a host"),
        ("authorityHost: https://user:secret@login.example", "it holds a user name or a password"),
        (
            "scope: https://containerregistry.azure.net",
            "azure.scope: \"https://containerregistry.azure.net\" is no scope",
        ),
        ("scope: /.default", "is no scope"),
        ("scope: 'a b/.default'", "is no scope"),
        ("caFile: ''", "azure.caFile is empty"),
        ("ca: /x", "azure.ca: unknown field"),
    ] {
        let error = Configuration::parse(&format!("azure: {{{azure}}}")).unwrap_err().to_string();
        assert!(error.contains(expected), "{azure}\n  {error}\n  {expected}");
        assert!(!error.contains("secret@"), "{error}");
    }
}

#[test]
fn a_file_of_comments_is_an_empty_one_and_a_list_is_none() {
    let empty = Configuration::parse("").unwrap();
    assert_eq!(Configuration::parse("# no registry yet\n---\n").unwrap(), empty);
    for text in ["- registries", "[acr-pull-secret, [], {}, {}, {}, {}]", "registries", "5"] {
        let error = Configuration::parse(text).unwrap_err().to_string();
        assert!(error.contains("holds no fields"), "{text}\n  {error}");
    }
}
