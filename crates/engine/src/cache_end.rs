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
    /// All whole pages of the prompt hit; the rest does not fill a page, or is the last token, which is always computed.
    PageBoundary,
}

impl CacheEnd {
    /// A stable name: `disabled`, `cold`, `salt`, `differs`, `evicted`, `page_boundary`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Cold => "cold",
            Self::Salt => "salt",
            Self::Differs { .. } => "differs",
            Self::Evicted { .. } => "evicted",
            Self::PageBoundary => "page_boundary",
        }
    }

    /// The token at which the hit ended for a reason that has one.
    pub fn index(self) -> Option<usize> {
        match self {
            Self::Differs { index } | Self::Evicted { index } => Some(index),
            _ => None,
        }
    }
}
