//! Bytes on the webhook's port that are no TLS, and requests that no API server sends.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    edge::{forget_peak, resources, under_load},
    progress::say,
    world::{Error, Tls, World, expect, expect_equal, review},
};

const GARBAGE_FOR: Duration = Duration::from_secs(6);
/// A request that is right but for what is put in.
const HEAD: &str = "POST /mutate HTTP/1.1\r\nhost: webhook\r\n";

/// What is no TLS, as fast as four clients can.
pub async fn garbage_costs_no_pod(world: Arc<World>) -> Result<(), Error> {
    let webhooks = world.installation.webhooks();
    let garbage = async {
        let logged = world.installation.logs().matches("\"WARN\"").count();
        let mut clients = JoinSet::new();
        for number in 0..4 {
            clients.spawn(send_garbage(webhooks[number % webhooks.len()]));
        }
        let sent: usize = clients.join_all().await.into_iter().sum();
        say(format!("{sent} connections with garbage in {GARBAGE_FOR:?}"));
        expect(sent > 200, format!("only {sent} connections"))?;
        let logged = world.installation.logs().matches("\"WARN\"").count() - logged;
        expect(logged < 10, format!("{logged} warnings: garbage fills the log"))
    };
    under_load(&world, garbage).await.map(drop)
}

async fn send_garbage(webhook: SocketAddr) -> usize {
    let client_hello_cut_short = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 100]].concat();
    let huge_record = [vec![0x16, 3, 1, 0xff, 0xff, 1, 0, 0xff, 0xff, 3, 3], vec![7; 70_000]].concat();
    let alert_after_hello = [&client_hello_cut_short[..], &[0x15, 3, 3, 0, 2, 2, 40]].concat();
    let random: Vec<u8> = (0..4_096).map(|_| fastrand::u8(..)).collect();
    let kinds: [&[u8]; 7] = [
        &random,
        b"POST /mutate HTTP/1.1\r\nhost: webhook\r\ncontent-length: 2\r\n\r\n{}",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &client_hello_cut_short,
        &huge_record,
        &alert_after_hello,
        b"\0",
    ];
    let started = Instant::now();
    let mut sent = 0;
    while started.elapsed() < GARBAGE_FOR {
        let Ok(mut connection) = TcpStream::connect(webhook).await else { continue };
        // It may be refused before all is sent.
        let _ = connection.write_all(kinds[sent % kinds.len()]).await;
        if sent % 2 == 0 {
            let _ = tokio::time::timeout(Duration::from_millis(5), connection.read(&mut [0; 64])).await;
        }
        sent += 1;
    }
    sent
}

/// As many login servers as a review has room for: made up, and different ports of a registry that has a rule.
pub async fn a_review_of_countless_login_servers_costs_no_pod(world: Arc<World>) -> Result<(), Error> {
    const ROOM: usize = 8 << 20;
    const REVIEWS_FOR: Duration = Duration::from_secs(4);
    let webhook = world.installation.webhooks()[0];
    let (process, direct) = (world.installation.process_of(webhook)?, world.direct(webhook).await?);
    let made_up: Vec<_> = (0..225_000).map(|number| format!(r#"{{"image":"aaaaa{number}.azurecr.io/a"}}"#)).collect();
    let ports = (1_000..65_536).map(|port| format!(r#"{{"image":"contoso.azurecr.io:{port}/a"}}"#));
    let in_capitals = (1_000..65_536).map(|port| format!(r#"{{"image":"Contoso.azurecr.io:{port}/a"}}"#));
    let of_a_rule: Vec<_> = ports.chain(in_capitals).collect();
    let kinds = [("made up", made_up, false), ("of a rule", of_a_rule, true)];
    let countless = async {
        let started = Instant::now();
        // On and on, so that enough pods come meanwhile.
        for (what, containers, is_patched) in kinds.iter().cycle() {
            let namespace = world.namespace(&[]).await?;
            let body = String::from_utf8(review(&namespace, &["nginx"]))?;
            let body = body.replace(r#"{"name":"c0","image":"nginx"}"#, &containers.join(","));
            expect((ROOM / 2..ROOM).contains(&body.len()), format!("a body of {} bytes", body.len()))?;
            forget_peak(process)?;
            let asked = Instant::now();
            let (status, answer) = world.review(&direct, body.into_bytes()).await?;
            let (took, resources) = (asked.elapsed(), resources(process)?);
            say(format!("{} login servers {what}: answered in {took:?}; {resources}", containers.len()));
            expect_equal("status", status, 200)?;
            let answer: serde_json::Value = serde_json::from_slice(&answer)?;
            expect_equal("a patch", answer["response"].get("patch").is_some(), *is_patched)?;
            let warnings = answer["response"]["warnings"].as_array().map_or(0, Vec::len);
            expect((1..=40).contains(&warnings), format!("{warnings} warnings"))?;
            expect(took < Duration::from_secs(10), format!("{took:?} for an answer"))?;
            expect(resources.peak_kibibytes < 128 << 10, format!("{resources}: more than the chart's limit"))?;
            if *is_patched && started.elapsed() > REVIEWS_FOR {
                break;
            }
        }
        Ok(())
    };
    under_load(&world, countless).await.map(drop)
}

/// Each on a connection of its own, and a good one after it.
pub async fn unusual_requests_are_refused_and_cost_no_pod(world: Arc<World>) -> Result<(), Error> {
    let (webhook, tls) = (world.installation.webhooks()[0], world.tls().await?);
    let body = String::from_utf8(review("does-not-exist", &["contoso.azurecr.io/app:v1"]))?;
    let good = format!("{HEAD}content-length: {}\r\n\r\n{body}", body.len());
    let with = |header: &str| format!("{HEAD}{header}\r\n\r\n{body}");
    let length = body.len();
    let last_one = with(&format!("connection: close\r\ncontent-length: {length}"));
    // The statuses, and whether the connection is closed after them.
    let requests: Vec<(&str, String, &[&str], bool)> = vec![
        ("a good one", good.clone(), &["200"], false),
        ("ten at once", good.repeat(10), &["200"; 10], false),
        (
            "one that waits for 100",
            with(&format!("expect: 100-continue\r\ncontent-length: {length}")),
            &["100", "200"],
            false,
        ),
        ("an unknown expectation", with(&format!("expect: a miracle\r\ncontent-length: {length}")), &["200"], false),
        (
            "in chunks",
            format!("{HEAD}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
            &["200"],
            false,
        ),
        (
            "a header of 64 KiB",
            with(&format!("filler: {}\r\ncontent-length: {length}", "x".repeat(64 << 10))),
            &["431"],
            true,
        ),
        ("a thousand headers", with(&"a: b\r\n".repeat(1_000)), &["431"], true),
        ("two lengths", with(&format!("content-length: {length}\r\ncontent-length: 2")), &["400"], true),
        ("a negative length", with("content-length: -1"), &["400"], true),
        ("a length beyond all numbers", with("content-length: 99999999999999999999999"), &["400"], true),
        ("a length of words", with("content-length: many"), &["400"], true),
        // What comes after the body is taken for a request of its own, and is none.
        ("a length too short", with("content-length: 10"), &["400", "400"], true),
        ("an unknown coding", with("transfer-encoding: identity"), &["400"], true),
        ("a chunk of no length", with("transfer-encoding: chunked"), &["400"], true),
        ("a space before the colon", with(&format!("content-length : {length}")), &["400"], true),
        ("a folded header", with(&format!("filler: a\r\n b\r\ncontent-length: {length}")), &["400"], true),
        ("a NUL in a header", with(&format!("filler: a\0b\r\ncontent-length: {length}")), &["400"], true),
        ("no version", "GET /\r\n\r\n".to_owned(), &["400"], true),
        ("HTTP/2, which just ends", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[], true),
        ("a tunnel", "CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n".to_owned(), &["404"], false),
        ("another path", good.replacen("/mutate", "/metrics", 1), &["404"], false),
        ("another method", "GET /mutate HTTP/1.1\r\nhost: webhook\r\n\r\n".to_owned(), &["405"], false),
    ];
    let asked = async {
        let mut wrong = Vec::new();
        for (what, request, expected, closed) in &requests {
            let found = ask(&tls, webhook, request.as_bytes()).await?;
            if found.statuses != *expected || found.closed != *closed {
                wrong.push(format!("{what}: {found:?}, expected {expected:?}, closed: {closed}"));
            }
            let last = Answered { statuses: vec!["200".to_owned()], closed: true };
            expect_equal(&format!("the answer after {what}"), ask(&tls, webhook, last_one.as_bytes()).await?, last)?;
        }
        say(format!("{} unusual requests", requests.len()));
        expect(wrong.is_empty(), wrong.join("\n"))
    };
    under_load(&world, asked).await.map(drop)
}

/// What came back for a request.
#[derive(Debug, PartialEq, Eq)]
struct Answered {
    /// Of each answer.
    statuses: Vec<String>,
    /// Whether the program closed the connection, at once after the last answer.
    closed: bool,
}

/// Sends all of it and waits for what comes back.
async fn ask(tls: &Tls, webhook: SocketAddr, request: &[u8]) -> Result<Answered, Error> {
    let connection = tls.connect(webhook).await?;
    let (mut reader, mut writer) = tokio::io::split(connection);
    let mut answers = Vec::new();
    let read = async {
        let mut piece = [0; 4_096];
        // Half a minute for the first, and then until nothing more comes.
        let mut patience = Duration::from_secs(30);
        loop {
            match tokio::time::timeout(patience, reader.read(&mut piece)).await {
                Ok(Ok(read @ 1..)) => answers.extend_from_slice(&piece[..read]),
                Ok(Ok(0) | Err(_)) => return true,
                Err(_) => return false,
            }
            patience = Duration::from_millis(700);
        }
    };
    // It may be refused before all is sent.
    let (_, closed) = tokio::join!(async { writer.write_all(request).await.and(writer.flush().await) }, read);
    let answers = String::from_utf8_lossy(&answers).into_owned();
    let starts = answers.split("HTTP/1.1 ").skip(1);
    Ok(Answered { statuses: starts.filter_map(|answer| answer.get(..3)).map(str::to_owned).collect(), closed })
}
