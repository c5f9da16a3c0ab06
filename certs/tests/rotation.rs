//! Years of rotation in simulated time: at each moment every leaf that a replica serves verifies against every bundle
//! that an API server holds, although replicas and API servers lag behind the stored state.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod verification;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use certs::{
    Lifetimes,
    issue::carry_out,
    plan::{PublishedBundle, Step, next_step, serving_leaf},
    stored::{Leaf, StoredCertificates},
};
use jiff::Timestamp;
use verification::{certificates, hours, names, start, verify};

/// A small generator of repeatable random numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }
}

/// One tick is an hour; index 0 of a history is its oldest state.
struct World {
    secret: Vec<StoredCertificates>,
    bundle: Vec<Bundle>,
    /// How many ticks ago a replica or API server last looked, at most.
    greatest_lag: usize,
    replicas: [Option<Leaf>; 3],
    /// By leaf and position of the bundle.
    verified: HashMap<(Vec<u8>, usize), bool>,
    random: Random,
}

/// A `caBundle` and what it publishes.
struct Bundle {
    pem: String,
    published: PublishedBundle,
}

impl Bundle {
    fn new(pem: String) -> Self {
        Self { published: PublishedBundle::Certificates(certificates(&pem)), pem }
    }
}

impl World {
    /// Every replica and every API server works with a state that is up to `greatest_lag` hours old.
    fn run(greatest_lag: usize, lifetimes: &Lifetimes, ticks: i64) -> Result<Self, String> {
        let mut world = Self {
            secret: vec![StoredCertificates::default()],
            bundle: vec![Bundle::new(String::new())],
            greatest_lag,
            replicas: [None, None, None],
            verified: HashMap::new(),
            random: Random(0x9E37_79B9_7F4A_7C15),
        };
        let mut secret_at = Vec::new();
        let mut bundle_at = Vec::new();
        for tick in 0..ticks {
            let now = start() + hours(tick);
            secret_at.push(world.secret.len() - 1);
            bundle_at.push(world.bundle.len() - 1);
            for replica in 0..3 {
                world.replica_round(replica, &secret_at, lifetimes, now);
            }
            // The first two lags are the time of installation: nothing is served and nothing published before.
            if secret_at.len() > 2 * greatest_lag + 1 {
                world.check(&bundle_at, now)?;
            }
        }
        Ok(world)
    }

    /// A look at an older state, and, when it still is the newest, the steps and the write that follow from it.
    fn replica_round(&mut self, replica: usize, secret_at: &[usize], lifetimes: &Lifetimes, now: Timestamp) {
        let lag = self.random.below(self.greatest_lag + 1).min(secret_at.len() - 1);
        let seen = if lag == 0 { self.secret.len() - 1 } else { secret_at[secret_at.len() - 1 - lag] };
        let mut stored = self.secret[seen].clone();
        let newest_bundle = self.bundle.last().unwrap();
        let mut steps = 0;
        loop {
            let step = next_step(&stored, &newest_bundle.published, &names(), lifetimes, now);
            if step == Step::Wait || steps == 12 {
                break;
            }
            carry_out(&step, &mut stored, "webhook", lifetimes, now).unwrap();
            steps += 1;
        }
        let is_newest = seen == self.secret.len() - 1;
        if stored != self.secret[seen] {
            if !is_newest {
                return; // The write conflicts.
            }
            self.secret.push(stored.clone());
        }
        if let Ok(leaf) = serving_leaf(&stored, now) {
            self.replicas[replica] = Some(leaf.clone());
        }
        // The bundle is guarded too: one that was made from an older Secret is refused.
        if is_newest && newest_bundle.pem != stored.bundle_pem() {
            self.bundle.push(Bundle::new(stored.bundle_pem()));
        }
    }

    /// Each replica against the oldest bundle an API server may still hold, the newest, and all between.
    fn check(&mut self, bundle_at: &[usize], now: Timestamp) -> Result<(), String> {
        let oldest = bundle_at[bundle_at.len() - 1 - self.greatest_lag];
        for replica in 0..3 {
            let leaf = self.replicas[replica].clone().ok_or_else(|| format!("{now}: replica {replica} serves none"))?;
            if !leaf.is_valid(now) {
                return Err(format!("{now}: replica {replica} serves an expired leaf"));
            }
            for (position, bundle) in self.bundle.iter().enumerate().skip(oldest) {
                let key = (leaf.pair().chain()[0].to_vec(), position);
                let verifies = *self.verified.entry(key).or_insert_with(|| verify(&leaf, &bundle.pem, now));
                if !verifies {
                    return Err(format!("{now}: replica {replica} does not verify"));
                }
            }
        }
        // A leaf never outlives its authority, so what verified once verifies until the leaf ends.
        let stored = self.secret.last().unwrap();
        serving_leaf(stored, now).map(|_| ()).map_err(|reason| format!("{now}: {reason:?}"))
    }
}
/// Short lives, so that many rotations fit in; the overlap is as by default.
fn short_lived() -> Lifetimes {
    Lifetimes {
        authority: Duration::from_secs(60 * 24 * 3600),
        authority_renewal: Duration::from_secs(20 * 24 * 3600),
        leaf: Duration::from_secs(12 * 24 * 3600),
        ..Lifetimes::default()
    }
}

#[test]
fn five_years_with_default_lifetimes_and_lag_never_break_a_handshake() {
    let world = World::run(20, &Lifetimes::default(), 5 * 365 * 24).unwrap();
    let authorities = authorities_seen(&world);
    assert!((3..=5).contains(&authorities), "{authorities} authorities");
    let leaves: HashSet<_> =
        world.secret.iter().filter_map(|stored| Some(stored.leaf.as_ref()?.pair().chain()[0].clone())).collect();
    assert!((30..=36).contains(&leaves.len()), "{} leaves", leaves.len());
    assert!(world.secret.iter().all(|stored| stored.authorities.len() <= 2));
}

#[test]
fn thirty_rotations_with_short_lives_never_break_a_handshake() {
    let world = World::run(23, &short_lived(), 1200 * 24).unwrap();
    assert!(authorities_seen(&world) >= 28, "{} authorities", authorities_seen(&world));
}

/// The tests above would see a rotation without overlap.
#[test]
fn without_overlap_the_simulation_finds_a_broken_handshake() {
    let lifetimes = Lifetimes { overlap: Duration::ZERO, ..short_lived() };
    let error = World::run(23, &lifetimes, 120 * 24).map(|_| ()).unwrap_err();
    assert!(error.contains("does not verify"), "{error}");
}

fn authorities_seen(world: &World) -> usize {
    let all = world.secret.iter().flat_map(|stored| &stored.authorities).map(|authority| authority.der().clone());
    all.collect::<HashSet<_>>().len()
}
