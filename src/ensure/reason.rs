//! Why pull secrets are written.

/// Why a pull secret is written; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteReason {
    /// A pod that is being admitted needs it.
    Admission,
    /// A credential or the configuration changed, or changed while nobody was there to see it.
    Change,
    /// A token is about to expire.
    Renewal,
    /// Somebody changed or deleted it.
    Repair,
    /// The namespace may not have some of it any more.
    Withdrawal,
    /// A kubelet misses it.
    Heal,
    /// An earlier attempt failed.
    Retry,
}

impl WriteReason {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Admission, Self::Change, Self::Renewal, Self::Repair, Self::Withdrawal, Self::Heal, Self::Retry];

    /// Somebody says that the pull secret is not as we remember it, so we look before we believe our memory.
    pub(super) fn doubts_memory(self) -> bool {
        matches!(self, Self::Repair | Self::Heal)
    }

    /// The reason as the value of a metric label.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Change => "change",
            Self::Renewal => "renewal",
            Self::Repair => "repair",
            Self::Withdrawal => "withdrawal",
            Self::Heal => "heal",
            Self::Retry => "retry",
        }
    }
}
