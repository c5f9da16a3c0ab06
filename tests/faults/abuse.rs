//! Bytes on the webhook's port that are no TLS.

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
    edge::under_load,
    progress::say,
    world::{Error, World, expect},
};

const GARBAGE_FOR: Duration = Duration::from_secs(6);

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
