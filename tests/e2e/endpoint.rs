//! The endpoint called by somebody who is not the API server: nothing authenticates a caller, so every rule holds here too.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Error, World, expect, expect_equal, review};

/// `allowed` and whether there is a patch.
fn answer(body: &[u8]) -> Result<(bool, bool), Error> {
    let answer: Value = serde_json::from_slice(body)?;
    let response = &answer["response"];
    expect_equal("uid", response["uid"].as_str(), Some("0b4b1c5e-3a0f-4f0e-8c1b-2b7d7a6f0000"))?;
    Ok((response["allowed"] == true, response.get("patch").is_some()))
}

pub async fn excluded_and_unknown_namespaces_are_untouched(world: Arc<World>) -> Result<(), Error> {
    let opted_out = world.namespace(&[("acr-pull-injector.io/inject", "disabled")]).await?;
    let direct = world.direct(world.installation.webhooks()[0]).await?;
    for namespace in ["kube-system", "acr-pull-injector", "does-not-exist", &opted_out, ""] {
        let (status, body) = world.review(&direct, review(namespace, &["contoso.azurecr.io/app:v1"])).await?;
        expect_equal("status", status, 200)?;
        expect_equal(namespace, answer(&body)?, (true, false))?;
        if namespace != "does-not-exist" && !namespace.is_empty() {
            expect(world.pull_secret(namespace).await?.is_none(), format!("a pull secret was made in {namespace}"))?;
        }
    }
    Ok(())
}

pub async fn malformed_reviews_get_400_and_a_reason(world: Arc<World>) -> Result<(), Error> {
    let direct = world.direct(world.installation.webhooks()[0]).await?;
    for body in ["", "not json", "{}", "[]", r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}"#] {
        let (status, answer) = world.review(&direct, body.as_bytes().to_vec()).await?;
        expect_equal(body, status, 400)?;
        expect(answer.len() > 10, format!("no reason for {body:?}"))?;
    }
    Ok(())
}

pub async fn other_objects_are_allowed_untouched(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let direct = world.direct(world.installation.webhooks()[0]).await?;
    for (pointer, value) in [
        ("/request/operation", json!("UPDATE")),
        ("/request/operation", json!("DELETE")),
        ("/request/kind", json!({"group": "apps", "version": "v1", "kind": "Deployment"})),
        ("/request/kind/version", json!("v2")),
        ("/apiVersion", json!("admission.k8s.io/v1beta1")),
        ("/request/object", json!({"spec": "something else"})),
    ] {
        let mut review: Value = serde_json::from_slice(&review(&namespace, &["contoso.azurecr.io/app:v1"]))?;
        if pointer == "/request/object" {
            review["request"]["kind"]["kind"] = json!("Service");
        }
        *review.pointer_mut(pointer).ok_or("no such field")? = value;
        let (status, body) = world.review(&direct, review.to_string().into_bytes()).await?;
        expect_equal(pointer, status, 200)?;
        expect_equal(pointer, answer(&body)?, (true, false))?;
    }
    Ok(())
}

/// The API server takes objects of up to 3 MiB, and writes them larger as JSON.
pub async fn large_reviews_are_answered(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let direct = world.direct(world.installation.webhooks()[0]).await?;
    let mut large: Value = serde_json::from_slice(&review(&namespace, &["contoso.azurecr.io/app:v1"]))?;
    large["request"]["object"]["metadata"]["annotations"] = json!({"filler": "x".repeat(3 << 20)});
    let (status, body) = world.review(&direct, large.to_string().into_bytes()).await?;
    expect_equal("status", status, 200)?;
    expect_equal("answer", answer(&body)?, (true, true))?;
    large["request"]["object"]["metadata"]["annotations"] = json!({"filler": "x".repeat(9 << 20)});
    let (status, _) = world.review(&direct, large.to_string().into_bytes()).await?;
    expect_equal("status of 9 MiB", status, 413)
}

/// Anybody who reaches the port can send large reviews; they must not take the replica down.
pub async fn many_large_reviews_at_once_are_bounded(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let webhook = world.installation.webhooks()[0];
    let mut large: Value = serde_json::from_slice(&review(&namespace, &["contoso.azurecr.io/app:v1"]))?;
    large["request"]["object"]["metadata"]["annotations"] = json!({"filler": "x".repeat(3 << 20)});
    let body = large.to_string().into_bytes();
    let mut reviews = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let (mut connection, body) = (world.connect(webhook).await?, body.clone());
        reviews.spawn(async move {
            let head = format!("POST /mutate HTTP/1.1\r\nhost: webhook\r\ncontent-length: {}\r\n\r\n", body.len());
            // All but the end, and that only when the others have sent as much.
            let (most, rest) = body.split_at(body.len() - 100);
            connection.write_all(head.as_bytes()).await?;
            connection.write_all(most).await?;
            connection.flush().await?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            connection.write_all(rest).await?;
            connection.flush().await?;
            let mut status = [0; 12];
            connection.read_exact(&mut status).await?;
            Ok::<_, Error>(std::str::from_utf8(&status[9..])?.parse::<u16>()?)
        });
    }
    let mut answered = 0;
    while let Some(status) = reviews.join_next().await {
        // One that is refused before it is read may see its connection closed while it still sends.
        match status? {
            Ok(200) => answered += 1,
            Ok(503) | Err(_) => {}
            Ok(other) => return Err(format!("status {other}").into()),
        }
    }
    expect(answered > 0, "none was answered")?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.installation.process_of(webhook)?))?;
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse::<u64>().ok());
    let peak = peak.ok_or("no VmHWM")?;
    expect(peak < 128 << 10, format!("{peak} KiB at the peak, more than the chart's limit"))?;
    let direct = world.direct(webhook).await?;
    let (status, body) = world.review(&direct, review(&namespace, &["contoso.azurecr.io/app:v1"])).await?;
    expect_equal("status afterwards", status, 200)?;
    expect_equal("answer afterwards", answer(&body)?, (true, true))
}
