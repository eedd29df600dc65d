//! What an engine gives up when the machine runs short of memory.

/// Measures against memory pressure, mildest first. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Relief {
    /// The pressure is over: requests are admitted again.
    Over,
    /// Scratch memory is given back.
    Pool,
    /// Cached prefixes are dropped, and the memory of all free KV pages is given back.
    PrefixCache,
    /// No request is admitted while others run.
    Admission,
    /// The newest sequence loses its pages, to be computed again later; once for each time this is asked for.
    Preempt,
}

impl Relief {
    /// The measures that are counted.
    pub const ALL: [Relief; 4] = [Relief::Pool, Relief::PrefixCache, Relief::Admission, Relief::Preempt];

    /// A word for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Relief::Over => "over",
            Relief::Pool => "pool",
            Relief::PrefixCache => "prefix_cache",
            Relief::Admission => "admission",
            Relief::Preempt => "preempt",
        }
    }

    /// The next stronger measure, or itself.
    #[must_use]
    pub const fn stronger(self) -> Relief {
        match self {
            Relief::Over => Relief::Pool,
            Relief::Pool => Relief::PrefixCache,
            Relief::PrefixCache => Relief::Admission,
            Relief::Admission | Relief::Preempt => Relief::Preempt,
        }
    }
}
