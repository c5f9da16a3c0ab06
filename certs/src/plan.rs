//! Decides the next step from what is stored and the time. Pure: no I/O, no clock.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use crate::stored::{Authority, Leaf, StoredCertificates};

/// More authorities than this are never kept; only a run of faults can make so many.
const MOST_AUTHORITIES: usize = 6;
/// A mark that lies further in the future than this was written by a clock that was wrong.
const TOLERATED_CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// How long certificates live and how far their successors overlap.
#[derive(Clone, Debug)]
pub struct Lifetimes {
    /// Life of a certificate authority. Two years: its key never leaves the Secret, so rotating it more often gains
    /// little, and rotating it never would leave the path untried until the day it matters.
    pub authority: Duration,
    /// An authority gets its successor this long before it ends. Six months: a cluster that is switched off for a
    /// quarter, or a fault that nobody looks at, still leaves time for an orderly change.
    pub authority_renewal: Duration,
    /// Life of a serving certificate; renewed after two thirds. 90 days leave 30 days to notice a failing renewal.
    pub leaf: Duration,
    /// Time that every change is given to reach all API servers and replicas before the next one builds on it.
    /// They need seconds; 24 hours also cover one that was cut off for a working day, and cost nothing.
    pub overlap: Duration,
    /// Not-before lies this far in the past, for API servers whose clock is behind.
    pub backdate: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            authority: Duration::from_secs(730 * DAY),
            authority_renewal: Duration::from_secs(180 * DAY),
            leaf: Duration::from_secs(90 * DAY),
            overlap: Duration::from_secs(DAY),
            backdate: Duration::from_secs(15 * 60),
        }
    }
}

/// Which authorities the webhooks' `caBundle` was seen to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishedBundle {
    /// It could not be read.
    Unknown,
    /// There is no webhook that could call us, so nobody is left behind.
    NoWebhook,
    /// These certificates are in the bundle of every webhook.
    Certificates(HashSet<CertificateDer<'static>>),
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All is well for now.
    Wait,
    /// Note that this authority is in every `caBundle` since now.
    MarkPublished {
        /// Position in [`StoredCertificates::authorities`].
        authority: usize,
    },
    /// Add a new certificate authority at the end.
    CreateAuthority {
        /// Why.
        reason: AuthorityReason,
    },
    /// Replace the leaf.
    IssueLeaf {
        /// Position of the authority that signs.
        authority: usize,
        /// The names of the new leaf.
        dns_names: BTreeSet<String>,
        /// Why.
        reason: LeafReason,
    },
    /// Remove an authority that no leaf in use needs.
    RetireAuthority {
        /// Position in [`StoredCertificates::authorities`].
        authority: usize,
    },
}

/// Why a certificate authority is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityReason {
    /// No stored authority is valid and has its key.
    NoneUsable,
    /// The current one ends before long, or lost its key.
    Renewal,
}

/// Why a leaf is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafReason {
    /// None is stored, or what is stored is no pair.
    Missing,
    /// It is expired or not valid yet.
    NotValidNow,
    /// No valid authority of the bundle signed it.
    NotSignedByBundle,
    /// It lacks a DNS name that is wanted.
    DnsNames,
    /// A newer authority is known to all API servers.
    NewAuthority,
    /// Two thirds of its life are over.
    Renewal,
}

/// The next step towards (or along) an orderly rotation; carry it out and ask again until [`Step::Wait`].
#[must_use]
pub fn next_step(
    stored: &StoredCertificates,
    published: &PublishedBundle,
    dns_names: &BTreeSet<String>,
    lifetimes: &Lifetimes,
    now: Timestamp,
) -> Step {
    let authorities = &stored.authorities;
    if let Some(authority) = authorities.iter().position(|a| needs_mark(a, now) && published.contains(a)) {
        return Step::MarkPublished { authority };
    }
    let signers: Vec<usize> = (0..authorities.len()).filter(|&at| authorities[at].can_sign(now)).collect();
    let established =
        signers.iter().copied().rev().find(|&at| is_established(&authorities[at], lifetimes.overlap, now));
    let Some(&oldest_signer) = signers.first() else {
        return Step::CreateAuthority { reason: AuthorityReason::NoneUsable };
    };

    // Nothing that is stored can be served: a leaf at once, from the authority that most API servers should know.
    let at_once = established.unwrap_or(oldest_signer);
    let leaf = match serving_leaf(stored, now) {
        Ok(leaf) => leaf,
        Err(reason) => return Step::IssueLeaf { authority: at_once, dns_names: dns_names.clone(), reason },
    };
    if !dns_names.is_subset(leaf.dns_names()) {
        // The old names stay until the renewal: two releases with different names would undo each other's leaf.
        let dns_names = dns_names.union(leaf.dns_names()).cloned().collect();
        return Step::IssueLeaf { authority: at_once, dns_names, reason: LeafReason::DnsNames };
    }

    let Some(issuer) = stored.issuer() else { return Step::Wait };
    let issue = |authority, reason| Step::IssueLeaf { authority, dns_names: dns_names.clone(), reason };
    // The mark may be old: a bundle that was damaged since must be whole again first.
    let successor = established.filter(|&at| at > issuer && published.contains(&authorities[at]));
    if let Some(successor) = successor {
        return issue(successor, LeafReason::NewAuthority);
    }
    let renewer = if signers.contains(&issuer) { Some(issuer) } else { established };
    if let Some(renewer) = renewer
        && is_due(leaf, lifetimes, now)
        && after(now, lifetimes.leaf).min(authorities[renewer].not_after()) > leaf.pair().not_after()
    {
        return issue(renewer, LeafReason::Renewal);
    }
    let successor_waits = signers.iter().any(|&at| at > issuer);
    let issuer_ends = after(now, lifetimes.authority_renewal) >= authorities[issuer].not_after();
    if !successor_waits && (issuer_ends || !signers.contains(&issuer)) {
        return Step::CreateAuthority { reason: AuthorityReason::Renewal };
    }
    let out_of_use = after(leaf.issued_at(lifetimes.backdate), lifetimes.overlap) <= now;
    let retired = (0..authorities.len()).find(|&at| {
        at < issuer && out_of_use || at != issuer && authorities.len() > MOST_AUTHORITIES && at + 1 < authorities.len()
    });
    retired.map_or(Step::Wait, |authority| Step::RetireAuthority { authority })
}

/// The stored leaf if it may be served now: valid, and signed by a valid authority of the bundle.
pub fn serving_leaf(stored: &StoredCertificates, now: Timestamp) -> Result<&Leaf, LeafReason> {
    let leaf = stored.leaf.as_ref().ok_or(LeafReason::Missing)?;
    if !leaf.is_valid(now) {
        return Err(LeafReason::NotValidNow);
    }
    match stored.issuer() {
        Some(issuer) if stored.authorities[issuer].is_valid(now) => Ok(leaf),
        _ => Err(LeafReason::NotSignedByBundle),
    }
}

impl PublishedBundle {
    /// Every API server is on its way to know this authority.
    #[must_use]
    pub fn contains(&self, authority: &Authority) -> bool {
        match self {
            Self::Unknown => false,
            Self::NoWebhook => true,
            Self::Certificates(certificates) => certificates.contains(authority.der()),
        }
    }
}

fn needs_mark(authority: &Authority, now: Timestamp) -> bool {
    authority.published_at.is_none_or(|at| at > after(now, TOLERATED_CLOCK_SKEW))
}

/// In the bundle for so long that every API server has it.
fn is_established(authority: &Authority, overlap: Duration, now: Timestamp) -> bool {
    authority.published_at.is_some_and(|at| after(at, overlap) <= now)
}

/// Two thirds of its life are over.
fn is_due(leaf: &Leaf, lifetimes: &Lifetimes, now: Timestamp) -> bool {
    let issued_at = leaf.issued_at(lifetimes.backdate);
    let life = Duration::try_from(leaf.pair().not_after().duration_since(issued_at)).unwrap_or(Duration::ZERO);
    after(issued_at, life * 2 / 3) <= now
}

fn after(moment: Timestamp, span: Duration) -> Timestamp {
    moment.saturating_add(span).unwrap_or(Timestamp::MAX)
}
