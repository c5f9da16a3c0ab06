//! `check`, through the program.

use std::{
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fake_azure::{FakeAzure, Fault, SecretState, TENANT};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const CLIENT: &str = "99999999-8888-7777-6666-555555555555";
const SECRET: &str = "secret-of-the-application";

/// With the clock of the machine, since the program has no other.
async fn start() -> FakeAzure {
    let fake = FakeAzure::start().await;
    fake.entra().application(CLIENT).add_secret(SECRET);
    fake.registry("contoso").grant(CLIENT).add_image("team/app", "v1").add_user("reader", "password-of-the-reader");
    std::fs::write(fake.directory().join("secret"), SECRET).unwrap();
    std::fs::write(fake.directory().join("password"), "password-of-the-reader").unwrap();
    fake
}

fn configuration(fake: &FakeAzure) -> String {
    let (directory, host) = (fake.directory().display(), fake.login_server("contoso"));
    format!(
        "registries:\n\
         - {{name: tokens, hosts: ['{host}'], credential: {{servicePrincipal: {{tenantId: {TENANT}, clientId: {CLIENT}, \
         clientSecretFile: '{directory}/secret', delivery: token}}}}}}\n\
         - {{name: passwords, hosts: ['{host}'], credential: {{servicePrincipal: {{clientId: {CLIENT}, clientSecretFile: \
         '{directory}/secret'}}}}}}\n\
         - {{name: users, hosts: ['{host}'], credential: {{static: {{username: reader, passwordFile: \
         '{directory}/password'}}}}}}\n\
         azure: {{authorityHost: '{}', caFile: '{}', extraSuffixes: [localhost]}}\n",
        fake.authority_host(),
        fake.ca_file().display()
    )
}

async fn check(fake: &FakeAzure, configuration: &str, images: &[&str]) -> (Option<i32>, String, String) {
    check_with(fake, configuration, images, &[]).await
}

async fn check_with(
    fake: &FakeAzure,
    configuration: &str,
    images: &[&str],
    environment: &[(&str, &str)],
) -> (Option<i32>, String, String) {
    let file = fake.directory().join("config.yaml");
    std::fs::write(&file, configuration).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_acr-pull-injector"));
    command.env_clear().envs(environment.iter().copied()).args(["check", "--config"]).arg(file);
    for image in images {
        command.args(["--image", image]);
    }
    // The fake answers on this runtime, so the wait must not hold it up.
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    for text in [&stdout, &stderr] {
        assert!(!text.contains(SECRET) && !text.contains("password-of-the-reader") && !text.contains("eyJ"), "{text}");
    }
    (status.code(), stdout, stderr)
}

/// The cells of each row, without the lines of reasons.
fn rows(table: &str) -> Vec<Vec<&str>> {
    let rows = table.lines().skip(1).filter(|line| !line.starts_with("    "));
    rows.map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_well() {
    let fake = start().await;
    let host = fake.login_server("contoso");
    let image = format!("{host}/team/app:v1");
    let (code, table, errors) = check(&fake, &configuration(&fake), &[&image]).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{table}");
    let pull = format!("pull {image}");
    let login = fake.authority_host();
    let login = login.trim_start_matches("https://").split(':').next().unwrap();
    assert_eq!(
        rows(&table),
        [
            vec!["tokens", "-", "read credential", "ok"],
            vec!["tokens", login, "Entra token", "ok"],
            vec!["tokens", &host, "exchange token", "ok"],
            vec!["tokens", &host, "sign in", "ok"],
            vec!["tokens", &host, &pull, "ok"],
            vec!["passwords", "-", "read credential", "ok"],
            vec!["passwords", &host, "sign in", "ok"],
            vec!["passwords", &host, &pull, "ok"],
            vec!["users", "-", "read credential", "ok"],
            vec!["users", &host, "sign in", "ok"],
            vec!["users", &host, &pull, "ok"],
        ]
    );
    assert!(table.starts_with("REGISTRY"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_has_a_reason_and_a_remedy() {
    let fake = start().await;
    let host = fake.login_server("contoso");
    fake.entra().application(CLIENT).set_secret(SECRET, SecretState::Expired);
    std::fs::remove_file(fake.directory().join("password")).unwrap();
    let (code, table, _) = check(&fake, &configuration(&fake), &[]).await;
    assert_eq!(code, Some(1), "{table}");
    assert_eq!(rows(&table).iter().filter(|row| row.last() == Some(&"FAILED")).count(), 3, "{table}");
    for expected in ["has expired: make a new one", "give it the role AcrPull", "password does not exist"] {
        assert!(table.contains(expected), "{expected:?} is missing in\n{table}");
    }
    assert!(
        !rows(&table).iter().any(|row| row[2] == "exchange token"),
        "without a token nothing is exchanged\n{table}"
    );
    assert!(table.contains(&host));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_secret_is_shown_and_one_that_is_past_is_warned_of() {
    let fake = start().await;
    let stating = |end: &str| configuration(&fake).replace("delivery: token", &format!("delivery: token, {end}"));
    let (code, table, _) = check(&fake, &stating("endDateTime: '2126-11-24'"), &[]).await;
    assert_eq!(code, Some(0), "{table}");
    assert_eq!(rows(&table)[1], ["tokens", "-", "end date", "ok"]);
    assert!(table.contains("at 2126-11-24T00:00:00Z\n"), "{table}");

    // The secret still works, so that the stated end is the wrong one: nothing has failed.
    let (code, table, _) = check(&fake, &stating("endDateTime: 2026-01-31T08:00:00Z"), &[]).await;
    assert_eq!(code, Some(0), "{table}");
    assert_eq!(rows(&table)[1], ["tokens", "-", "end date", "WARNING"]);
    assert!(table.contains("has ended, at 2026-01-31T08:00:00Z: make a new one"), "{table}");

    let (code, table, _) =
        check(&fake, &stating(&format!("endDateTimeFile: '{}/secret'", fake.directory().display())), &[]).await;
    assert_eq!(code, Some(0), "{table}");
    assert!(table.contains("secret does not say when the secret ends: write a moment"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_not_there() {
    let fake = start().await;
    let image = format!("{}/team/app:v2", fake.login_server("contoso"));
    let (code, table, _) = check(&fake, &configuration(&fake), &[&image]).await;
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("has no such image") && table.contains("HTTP 404"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wildcard_needs_an_image() {
    let fake = start().await;
    let host = fake.login_server("contoso");
    let text = configuration(&fake).replace(&format!("'{host}'"), "'*.localhost'");
    let (code, table, _) = check(&fake, &text, &[]).await;
    assert_eq!(code, Some(0), "{table}");
    assert!(table.contains("*.localhost") && table.contains("give an image with --image"), "{table}");
    let (code, table, _) = check(&fake, &text, &[&format!("{host}/team/app:v1")]).await;
    assert_eq!(code, Some(0), "{table}");
    assert!(!table.contains("skipped") && table.contains("pull "), "{table}");
    let (code, table, _) = check(&fake, &configuration(&fake), &["other.localhost/app"]).await;
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("no registry rule covers this host"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_that_points_elsewhere_gets_nothing() {
    let fake = start().await;
    let evil = FakeAzure::start().await;
    let registry = evil.registry("evil");
    let port = evil.login_server("evil").rsplit(':').next().unwrap().to_owned();
    fake.registry("contoso").set_realm(&format!("https://127.0.0.1:{port}/oauth2/token"));
    let (code, table, _) = check(&fake, &configuration(&fake), &[]).await;
    assert_eq!(code, Some(1), "{table}");
    assert!(
        table.contains("wants the sign-in at 127.0.0.1") && table.contains("no credential is sent there"),
        "{table}"
    );
    assert!(registry.seen().is_empty());
    let offered = fake.registry("contoso").seen().iter().filter(|seen| seen.authorization.is_some()).count();
    assert_eq!(offered, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_ends_with_two() {
    let fake = start().await;
    for (text, image, expected) in [
        ("registries: [{name: a, credential: {}}]", None, "registries[0].credential is empty"),
        ("", Some("docker.io/library/app"), "--image docker.io/library/app"),
        ("", Some("Not an image"), "--image Not an image"),
    ] {
        let (code, _, errors) = check(&fake, text, image.as_slice()).await;
        assert_eq!(code, Some(2), "{errors}");
        assert!(errors.contains(expected), "{errors}");
    }
    let (code, table, _) = check(&fake, "", &[]).await;
    assert_eq!(code, Some(1));
    assert!(table.contains("no registry is configured"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_behind_a_proxy_that_refuses() {
    let fake = start().await;
    fake.entra().fail_next(Fault::html(403));
    let (code, table, _) = check(&fake, &configuration(&fake), &[]).await;
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("answers with a web page: a proxy"), "{table}");
}

/// A proxy that lets everything through to loopback and counts.
async fn proxy() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let tunnels = Arc::new(AtomicUsize::new(0));
    let counted = tunnels.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let port = head.split(' ').nth(1).unwrap().rsplit(':').next().unwrap().parse::<u16>().unwrap();
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, tunnels)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_of_the_environment_is_used() {
    let fake = start().await;
    let (address, tunnels) = proxy().await;
    let text = configuration(&fake);
    let (code, table, _) = check_with(&fake, &text, &[], &[("HTTPS_PROXY", &address)]).await;
    assert_eq!(code, Some(0), "{table}");
    assert!(tunnels.swap(0, Ordering::SeqCst) >= 2, "Entra and the registry go through the proxy");
    let without = [("HTTPS_PROXY", address.as_str()), ("NO_PROXY", "localhost")];
    let (code, table, _) = check_with(&fake, &text, &[], &without).await;
    assert_eq!((code, tunnels.load(Ordering::SeqCst)), (Some(0), 0), "{table}");
    let (code, table, _) = check_with(&fake, &text, &[], &[("HTTPS_PROXY", &fake.authority_host())]).await;
    assert_eq!(code, Some(1), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssl_cert_file_is_trusted() {
    let fake = start().await;
    let ca_file = fake.ca_file();
    let text = configuration(&fake).replace(&format!("caFile: '{}', ", ca_file.display()), "");
    let (code, table, _) = check(&fake, &text, &[]).await;
    assert_eq!(code, Some(1), "{table}");
    let (code, table, _) = check_with(&fake, &text, &[], &[("SSL_CERT_FILE", ca_file.to_str().unwrap())]).await;
    assert_eq!(code, Some(0), "{table}");
}
