//! The three profiles of the tuning guide: named defaults, also shipped as `.env` files in deploy/profiles.

/// A profile's name and the text of its `.env` file.
pub(crate) struct Profile {
    pub(crate) name: &'static str,
    pub(crate) env: &'static str,
}

/// Every profile.
pub(crate) static PROFILES: &[Profile] = &[
    Profile { name: "high-throughput", env: include_str!("../../../../deploy/profiles/high-throughput.env") },
    Profile { name: "low-latency", env: include_str!("../../../../deploy/profiles/low-latency.env") },
    Profile { name: "memory-constrained", env: include_str!("../../../../deploy/profiles/memory-constrained.env") },
];

/// The profile of this name.
pub(crate) fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}
