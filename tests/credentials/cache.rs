//! One shared cache, renewed by expiry.

use std::time::Duration;

use acr_pull_injector::config::Configuration;
use fake_azure::Fault;

use crate::world::{START, World};

#[tokio::test]
async fn a_token_comes_as_a_pair_with_its_life() {
    let world = World::start().await;
    let credentials = world.credentials().await;
    let credential = world.credential(&credentials).await.unwrap();
    assert_eq!(credential.username, "00000000-0000-0000-0000-000000000000");
    assert!(world.fake.registry("contoso").accepts(&credential.username, credential.password.expose()));
    let lifetime = credential.lifetime.unwrap();
    assert_eq!(lifetime.expires_at.as_second(), START + 10_800);
    assert!((81 * 60..=99 * 60).contains(&(lifetime.renew_at.as_second() - START)), "{lifetime:?}");
    let exchange = world.fake.registry("contoso").seen().pop().unwrap();
    assert_eq!(exchange.path, "/oauth2/exchange");
    for (field, value) in [
        ("grant_type", "access_token"),
        ("service", world.fake.login_server("contoso").as_str()),
        ("tenant", fake_azure::TENANT),
    ] {
        assert_eq!(exchange.field(field), Some(value), "{field}");
    }
    let sign_in = world.fake.entra().seen().pop().unwrap();
    assert_eq!(sign_in.field("scope"), Some("https://containerregistry.azure.net/.default"));
    assert_eq!(
        world.metric("registry_credential_expiry_timestamp_seconds{registry=\"contoso\"}"),
        Some(1_800_010_800.0)
    );
    let renewed = "credential_refreshes_total{registry=\"contoso\",outcome=\"renewed\"}";
    assert_eq!(world.metric(renewed), Some(1.0));
}

#[tokio::test]
async fn exact_hosts_have_their_token_before_anybody_asks() {
    let world = World::start().await;
    let credentials = world.credentials().await;
    assert_eq!(world.fake.entra().requests(), 0, "reading files must not wait for Azure");
    assert!(credentials.renew_due().await, "a host without a token has one now, which must be announced");
    assert!(!credentials.renew_due().await);
    let requests = (world.fake.entra().requests(), world.fake.registry("contoso").exchanges());
    world.credential(&credentials).await.unwrap();
    assert_eq!((world.fake.entra().requests(), world.fake.registry("contoso").exchanges()), requests);
    assert_eq!(requests, (1, 1));
}

#[tokio::test]
async fn a_day_takes_sixteen_exchanges_however_many_ask() {
    let world = World::start().await;
    let hosts: Vec<_> = ["contoso", "fabrikam"].map(|name| world.fake.login_server(name)).into();
    world.fake.registry("fabrikam").grant(crate::world::CLIENT);
    let credentials = world.credentials_of(&world.configuration_of(&hosts, &world.secret_credential())).await;
    for _ in 0..24 * 60 {
        credentials.renew_due().await;
        for host in &hosts {
            for _ in 0..3 {
                let credential = world.credential_for(&credentials, host).await.unwrap();
                let left = credential.lifetime.unwrap().expires_at.as_second() - world.now();
                assert!(left >= 80 * 60, "only {left} s are left");
            }
        }
        world.advance(60);
    }
    for name in ["contoso", "fabrikam"] {
        let exchanges = world.fake.registry(name).exchanges();
        assert!((15..=18).contains(&exchanges), "{name}: {exchanges} exchanges");
    }
    let sign_ins = world.fake.entra().requests();
    assert!(sign_ins <= 33, "{sign_ins} sign-ins for two hosts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_callers_cost_one_exchange() {
    let world = World::start().await;
    world.fake.registry("contoso").fail_next(Fault::Delay(Duration::from_millis(200)));
    let credentials = world.credentials().await;
    let world = std::sync::Arc::new(world);
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..200 {
        let (world, credentials) = (world.clone(), credentials.clone());
        callers.spawn(async move {
            // The spelling of the host is no reason for another token.
            let login_server = world.fake.login_server(if number % 2 == 0 { "contoso" } else { "Contoso" });
            world.credential_for(&credentials, &login_server).await.unwrap().password
        });
    }
    let tokens = callers.join_all().await;
    assert!(tokens.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!((world.fake.entra().requests(), world.fake.registry("contoso").exchanges()), (1, 1));
}

#[tokio::test]
async fn two_hundred_callers_share_one_failure() {
    let world = World::start().await;
    world.fake.registry("contoso").withdraw(crate::world::CLIENT);
    let credentials = world.credentials().await;
    let callers = (0..200).map(|_| world.credential(&credentials));
    let results = futures_util::future::join_all(callers).await;
    assert!(results.iter().all(Result::is_err));
    assert_eq!(world.fake.registry("contoso").exchanges(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_hangs_holds_up_no_other() {
    let world = World::start().await;
    let hosts: Vec<_> = ["contoso", "fabrikam"].map(|name| world.fake.login_server(name)).into();
    let (hangs, fails) = (world.fake.registry("contoso"), world.fake.registry("fabrikam"));
    fails.grant(crate::world::CLIENT).fail_next(Fault::json(500, ""));
    hangs.fail_always(Some(Fault::Hang));
    let credentials = world.credentials_of(&world.configuration_of(&hosts, &world.secret_credential())).await;
    let (announce, announced) = tokio::sync::watch::channel(0);
    let shutdown = tokio_util::sync::CancellationToken::new();
    let following = tokio::spawn(credentials.clone().follow(announce, shutdown.clone()));
    let both_were_asked = async {
        while hangs.exchanges() == 0 || fails.exchanges() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), both_were_asked).await.unwrap();
    let its_back_off_ends = async {
        while !announced.has_changed().unwrap() {
            world.advance(1);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // A request that hangs is given up after 8 s.
    tokio::time::timeout(Duration::from_secs(6), its_back_off_ends).await.expect("no token for 6 s");
    assert_eq!((hangs.exchanges(), fails.exchanges()), (1, 2));
    world.credential_for(&credentials, &hosts[1]).await.unwrap();
    shutdown.cancel();
    following.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_registries_that_hang_hold_up_no_other() {
    let world = World::start().await;
    let hanging: Vec<_> = (0..60).map(|number| format!("hangs{number}")).collect();
    let mut hosts: Vec<_> = hanging.iter().map(|name| world.fake.login_server(name)).collect();
    for name in &hanging {
        world.fake.registry(name).fail_always(Some(Fault::Hang));
    }
    let credential = world.secret_credential();
    let credentials = world.credentials_of(&world.configuration_of(&hosts, &credential)).await;
    let asked = hosts.iter().map(|host| world.credential_for(&credentials, host));
    assert!(futures_util::future::join_all(asked).await.iter().all(Result::is_err));

    hosts.push(world.fake.login_server("fabrikam"));
    world.fake.registry("fabrikam").grant(crate::world::CLIENT);
    let configuration = Configuration::parse(&world.configuration_of(&hosts, &credential)).unwrap();
    credentials.configure(&configuration).await;
    world.advance(600);
    let (announce, mut announced) = tokio::sync::watch::channel(0);
    let shutdown = tokio_util::sync::CancellationToken::new();
    let following = tokio::spawn(credentials.clone().follow(announce, shutdown.clone()));
    // A request that hangs is given up after 8 s.
    tokio::time::timeout(Duration::from_secs(6), announced.changed()).await.expect("no token for 6 s").unwrap();
    world.credential_for(&credentials, &hosts[60]).await.unwrap();
    shutdown.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn an_hour_without_azure_is_not_noticed() {
    let world = World::start().await;
    let credentials = world.credentials().await;
    credentials.renew_due().await;
    let before = world.credential(&credentials).await.unwrap();
    world.advance(80 * 60);
    world.fake.entra().fail_always(Some(Fault::json(503, "")));
    let asked = world.fake.entra().requests();
    for _ in 0..60 * 6 {
        credentials.renew_due().await;
        assert_eq!(world.credential(&credentials).await.unwrap(), before, "what works stays");
        world.advance(10);
    }
    let attempts = world.fake.entra().requests() - asked;
    assert!((5..=60).contains(&attempts), "{attempts} attempts in an hour");
    world.fake.entra().fail_always(None);
    for _ in 0..31 {
        credentials.renew_due().await;
        world.advance(10);
    }
    let after = world.credential(&credentials).await.unwrap();
    assert_ne!(after.password, before.password, "five minutes after Azure is back the token is new");
    assert!(world.fake.registry("contoso").accepts(&after.username, after.password.expose()));
}

#[tokio::test]
async fn azure_refusing_connections_is_survived_until_the_token_expires() {
    let world = World::start().await;
    let credentials = world.credentials().await;
    let before = world.credential(&credentials).await.unwrap();
    world.fake.go_away().await;
    for minutes in [100, 60, 19] {
        world.advance(minutes * 60);
        credentials.renew_due().await;
        assert_eq!(world.credential(&credentials).await.unwrap(), before);
    }
    world.advance(61);
    let error = world.credential(&credentials).await.unwrap_err().to_string();
    assert!(error.contains("refuses connections"), "{error}");
    world.fake.come_back().await;
    world.advance(300);
    assert!(credentials.renew_due().await, "that there is a token again must be announced");
    world.credential(&credentials).await.unwrap();
}

#[tokio::test]
async fn a_failure_is_remembered_for_its_back_off() {
    let world = World::start().await;
    world.fake.registry("contoso").withdraw(crate::world::CLIENT);
    let credentials = world.credentials().await;
    let error = world.credential(&credentials).await.unwrap_err();
    for _ in 0..50 {
        assert_eq!(world.credential(&credentials).await.unwrap_err(), error);
    }
    assert_eq!(world.fake.registry("contoso").exchanges(), 1);
    // The role comes; the longest first back-off is two seconds.
    world.fake.registry("contoso").grant(crate::world::CLIENT);
    world.advance(2);
    world.credential(&credentials).await.unwrap();
    assert_eq!(world.fake.entra().requests(), 2, "a refusal by the registry asks for a new sign-in");
}

#[tokio::test]
async fn retry_after_is_honoured() {
    for entra in [true, false] {
        let world = World::start().await;
        let credentials = world.credentials().await;
        let throttled = Fault::throttled("120");
        if entra {
            world.fake.entra().fail_next(throttled);
        } else {
            world.fake.registry("contoso").fail_next(throttled);
        }
        world.credential(&credentials).await.unwrap_err();
        let count = || (world.fake.entra().requests(), world.fake.registry("contoso").exchanges());
        let asked = count();
        for _ in 0..11 {
            world.advance(10);
            world.credential(&credentials).await.unwrap_err();
            credentials.renew_due().await;
        }
        assert_eq!(count(), asked, "asked before 120 s were over");
        world.advance(11);
        world.credential(&credentials).await.unwrap();
    }
}

#[tokio::test]
async fn a_wait_of_a_day_is_cut_to_an_hour_and_to_five_minutes_where_nobody_throttles() {
    for (status, longest) in [(429, 3600), (503, 300), (403, 300), (200, 300)] {
        for entra in [true, false] {
            let world = World::start().await;
            let credentials = world.credentials().await;
            let headers = vec![("retry-after", "86400".to_owned())];
            let fault = Fault::Answer { status, headers, body: "<html></html>".to_owned() };
            if entra {
                world.fake.entra().fail_next(fault);
            } else {
                world.fake.registry("contoso").fail_next(fault);
            }
            world.credential(&credentials).await.unwrap_err();
            world.advance(longest - 10);
            world.credential(&credentials).await.expect_err("the wait is honoured");
            world.advance(11);
            world.credential(&credentials).await.unwrap();
        }
    }
}

#[tokio::test]
async fn hosts_under_a_wildcard_are_renewed_while_somebody_asks() {
    let world = World::start().await;
    let text = world.configuration_of(&["*.localhost".to_owned()], &world.secret_credential());
    let credentials = world.credentials_of(&text).await;
    credentials.renew_due().await;
    assert_eq!(world.fake.entra().requests(), 0, "a wildcard names no host to keep a token for");
    world.credential(&credentials).await.unwrap();
    for _ in 0..26 * 6 {
        credentials.renew_due().await;
        world.advance(600);
    }
    let exchanges = world.fake.registry("contoso").exchanges();
    assert!((15..=18).contains(&exchanges), "{exchanges} in 26 hours of which 24 are renewed");
    world.advance(4 * 3600);
    credentials.renew_due().await;
    assert_eq!(world.fake.registry("contoso").exchanges(), exchanges, "nobody asked for more than a day");
    assert_eq!(world.metric("registry_credential_expiry_timestamp_seconds{registry=\"contoso\"}"), None);
}

/// What failed while a pod waited is announced once it can be had, without another pod.
#[tokio::test]
async fn a_host_under_a_wildcard_that_failed_is_asked_about_again_by_itself() {
    let world = World::start().await;
    let text = world.configuration_of(&["*.localhost".to_owned()], &world.secret_credential());
    let credentials = world.credentials_of(&text).await;
    world.fake.entra().fail_always(Some(Fault::json(503, "")));
    world.credential(&credentials).await.unwrap_err();
    for _ in 0..50 {
        world.advance(10);
        assert!(!credentials.renew_due().await);
    }
    world.fake.entra().fail_always(None);
    let mut announced = false;
    for _ in 0..30 {
        world.advance(10);
        announced |= credentials.renew_due().await;
    }
    assert!(announced, "five minutes after Azure is back nobody knows of it");
    let exchanges = world.fake.registry("contoso").exchanges();
    world.credential(&credentials).await.unwrap();
    assert_eq!((exchanges, world.fake.registry("contoso").exchanges()), (1, 1));

    let refused = world.fake.registry("fabrikam");
    let forgotten = world.fake.login_server("fabrikam");
    world.credential_for(&credentials, &forgotten).await.unwrap_err();
    for _ in 0..90 {
        world.advance(10);
        credentials.renew_due().await;
    }
    let asked = refused.exchanges();
    assert!((2..=20).contains(&asked), "{asked} exchanges in 15 minutes");
    world.advance(600);
    credentials.renew_due().await;
    assert_eq!(refused.exchanges(), asked, "nobody asked for 15 minutes");
}

#[tokio::test]
async fn no_token_goes_to_a_host_that_the_rule_does_not_cover() {
    let world = World::start().await;
    let credentials = world.credentials().await;
    let error = world.credential_for(&credentials, &world.fake.login_server("fabrikam")).await.unwrap_err().to_string();
    assert!(error.contains("does not cover fabrikam.localhost"), "{error}");
    assert_eq!(world.fake.entra().requests(), 0);
}

#[tokio::test]
async fn made_up_login_servers_cost_little_and_take_nothing_from_real_ones() {
    let world = World::start().await;
    let configuration = world.configuration_of(&["*.localhost".to_owned()], &world.secret_credential());
    let credentials = world.credentials_of(&configuration).await;
    world.credential(&credentials).await.unwrap();
    let asked = || {
        let text = world.metrics.encode(0, None);
        let counts = text.lines().filter(|line| line.starts_with("acr_pull_injector_credential_refreshes_total{"));
        counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    assert_eq!(asked(), 1);
    world.advance(1);
    let real = world.fake.login_server("contoso");
    for number in 0..2_100 {
        let made_up = real.replace("contoso", &format!("madeup{number}"));
        let error = world.credential_for(&credentials, &made_up).await.unwrap_err().to_string();
        assert_eq!(error.contains("too many login servers"), number >= 60, "{number}: {error}");
    }
    assert_eq!(asked(), 61, "exchanges");
    world.credential(&credentials).await.unwrap();
    assert_eq!(world.fake.registry("contoso").exchanges(), 1, "the token of the real one is still there");
    world.advance(10);
    for number in 3_000..3_100 {
        let made_up = real.replace("contoso", &format!("madeup{number}"));
        world.credential_for(&credentials, &made_up).await.unwrap_err();
    }
    assert_eq!(asked(), 71, "one more for each second");
    credentials.renew_due().await;
    assert_eq!(asked(), 71, "in the background only half of what may be asked is used");
    world.advance(60);
    credentials.renew_due().await;
    assert_eq!(asked(), 101);
}

/// A leader that starts knows of no token, and a tenant makes up names without end.
#[tokio::test]
async fn made_up_login_servers_keep_no_token_of_a_pull_secret_from_being_renewed() {
    let world = World::start().await;
    let configuration = world.configuration_of(&["*.localhost".to_owned()], &world.secret_credential());
    let credentials = world.credentials_of(&configuration).await;
    let real = world.fake.login_server("contoso");
    for number in 0..100 {
        let made_up = real.replace("contoso", &format!("madeup{number}"));
        world.credential_for(&credentials, &made_up).await.unwrap_err();
    }
    let error = world.credential(&credentials).await.unwrap_err().to_string();
    assert!(error.contains("too many login servers"), "{error}");
    World::vouch_for(&credentials, &real);
    world.advance(6);
    for number in 100..200 {
        let made_up = real.replace("contoso", &format!("madeup{number}"));
        world.credential_for(&credentials, &made_up).await.unwrap_err();
    }
    world.credential(&credentials).await.unwrap();
}
