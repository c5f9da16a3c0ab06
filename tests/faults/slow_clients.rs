//! Clients that send a request byte by byte, and hold what it takes up for as long as they may.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};

use crate::{
    edge::{forget_peak, resources, under_load},
    progress::say,
    world::{Error, Tls, World, eventually, expect, expect_equal, review},
};

const HEAD: &str = "POST /mutate HTTP/1.1\r\nhost: webhook\r\n";

/// One way to be slow, and how many clients go it.
struct Kind {
    what: &'static str,
    clients: usize,
    /// Sent at once.
    beginning: String,
    /// Sent again and again.
    drip: &'static str,
    /// Whether the program ends it within seconds.
    is_ended: bool,
}

/// More than there is memory for, of bodies that have not begun, of those that hold memory already, and of heads. Reviews of
/// any size are answered meanwhile.
pub async fn slow_clients_cost_no_pod(world: Arc<World>) -> Result<(), Error> {
    // The longest body of the usual kind.
    let announced = format!("{HEAD}content-length: 131072\r\n\r\n");
    let chunked = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
    let longer = |head: &str| format!("{head}{}", " ".repeat(20 << 10));
    let in_chunks = format!("{chunked}5000\r\n{}\r\n", " ".repeat(0x5000));
    let kind = |what, clients, beginning, drip| Kind { what, clients, beginning, drip, is_ended: true };
    let kinds = [
        kind("body", 140, announced.clone(), " "),
        kind("chunk", 140, chunked, "1\r\n \r\n"),
        kind("rest of a body", 140, longer(&announced), " "),
        kind("rest of a large body", 20, longer(&announced.replace("131072", "8000000")), " "),
        kind("rest of the chunks", 20, in_chunks, "1\r\n \r\n"),
        Kind { is_ended: false, ..kind("head", 140, HEAD.to_owned(), "x") },
    ];
    let webhook = world.installation.webhooks()[0];
    let (process, tls) = (world.installation.process_of(webhook)?, world.tls().await?);
    forget_peak(process)?;
    let slow = async {
        let mut clients = JoinSet::new();
        for kind in &kinds {
            for _ in 0..kind.clients {
                let (tls, what, beginning, drip) = (tls.clone(), kind.what, kind.beginning.clone(), kind.drip);
                clients.spawn(
                    async move { Ok::<_, Error>((what, until_refused(&tls, webhook, &beginning, drip).await?)) },
                );
            }
        }
        let heads: usize = kinds.iter().filter(|kind| !kind.is_ended).map(|kind| kind.clients).sum();
        let mut ended = BTreeMap::<_, usize>::new();
        let all_end = async {
            while clients.len() > heads
                && let Some(client) = clients.join_next().await
            {
                *ended.entry(client??).or_default() += 1;
            }
            Ok::<_, Error>(())
        };
        let (all_end, reviewed) =
            tokio::join!(tokio::time::timeout(Duration::from_secs(60), all_end), review_all_sizes(&world, webhook));
        let resources = resources(process)?;
        say(format!("slow clients got {ended:?}; {} still send; {resources}", clients.len()));
        reviewed?;
        all_end.map_err(|_| "slow bodies were not ended")??;
        // What has hardly begun holds no memory, so it neither waits for any nor gives way.
        let is_right = |(what, status): &(&str, String)| match status.as_str() {
            "503" => !["head", "body", "chunk"].contains(what),
            status => *what != "head" && ["408", ""].contains(&status),
        };
        expect(ended.keys().all(is_right), format!("{ended:?}"))?;
        expect(resources.peak_kibibytes < 128 << 10, format!("{resources}: more than the chart's limit"))
    };
    under_load(&world, slow).await.map(drop)
}

/// For as long as slow bodies may take, reviews from a client that is not slow. Those that are longer than what a body may
/// take for nothing need memory that slow ones hold.
async fn review_all_sizes(world: &World, webhook: SocketAddr) -> Result<(), Error> {
    let started = Instant::now();
    let mut answered = 0;
    // The first is asked while slow clients still come, and may have to ask again as the API server does.
    let ask = |filler: usize| async move {
        let mut body: Value = serde_json::from_slice(&review("does-not-exist", &["contoso.azurecr.io/app:v1"]))?;
        body["request"]["object"]["metadata"]["annotations"] = json!({"filler": "x".repeat(filler)});
        Ok::<_, Error>(world.review(&world.direct(webhook).await?, body.to_string().into_bytes()).await?.0)
    };
    eventually("memory for a long review", || async { Ok((ask(64 << 10).await? == 200).then_some(())) }).await?;
    while started.elapsed() < Duration::from_secs(8) {
        for filler in [0, 64 << 10, 2 << 20] {
            expect_equal(&format!("status of a review of {filler} bytes and more"), ask(filler).await?, 200)?;
            answered += 1;
        }
    }
    say(format!("{answered} reviews were answered meanwhile"));
    expect(answered > 0, "a long review found memory only when the slow ones had been ended")
}

/// Sends `beginning`, then `drip` every 200 ms. Gives the status that ended it, or nothing when the connection just closed.
async fn until_refused(tls: &Tls, webhook: SocketAddr, beginning: &str, drip: &str) -> Result<String, Error> {
    let (mut reader, mut writer) = tokio::io::split(tls.connect(webhook).await?);
    let send = async {
        let mut next = beginning;
        while writer.write_all(next.as_bytes()).await.is_ok() && writer.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            next = drip;
        }
        // What it was answered may still have to be read.
        std::future::pending::<Infallible>().await
    };
    let mut answer = [0; 12];
    tokio::select! {
        never = send => match never {},
        read = reader.read_exact(&mut answer) => {
            Ok(if read.is_ok() { String::from_utf8_lossy(&answer[9..]).into_owned() } else { String::new() })
        }
    }
}
