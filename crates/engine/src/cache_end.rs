//! Why a prefix hit ended where it did.

/// Why a prefix hit ended where it did. Indices count prompt tokens from 0.
///
/// It says nothing about what other salts have cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheEnd {
    /// The cache is off, or the request opted out, or it wants log probabilities of the prompt.
    Disabled,
    /// Nothing that starts like this was cached so far.
    Cold,
    /// Nothing is cached under the request's salt.
    Salt,
    /// The prompt left the nearest cached one here.
    Differs {
        /// First token that differs.
        index: usize,
    },
    /// It was cached, but has been evicted from here on.
    Evicted {
        /// First token of the missing page.
        index: usize,
    },
    /// What is cached ends here, and whole pages of the prompt follow that were not there.
    NotCached {
        /// First token after what is cached.
        index: usize,
    },
    /// All whole pages of the prompt hit, and nothing that is cached says that the rest differs: it does not fill a
    /// page, or is the last token, which is always computed.
    PageBoundary {
        /// First token of the rest.
        index: usize,
    },
}

impl CacheEnd {
    /// A stable name: `disabled`, `cold`, `salt`, `differs`, `evicted`, `not_cached`, `page_boundary`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Cold => "cold",
            Self::Salt => "salt",
            Self::Differs { .. } => "differs",
            Self::Evicted { .. } => "evicted",
            Self::NotCached { .. } => "not_cached",
            Self::PageBoundary { .. } => "page_boundary",
        }
    }

    /// The token at which the hit ended for a reason that has one.
    pub fn index(self) -> Option<usize> {
        match self {
            Self::Differs { index }
            | Self::Evicted { index }
            | Self::NotCached { index }
            | Self::PageBoundary { index } => Some(index),
            _ => None,
        }
    }
}
