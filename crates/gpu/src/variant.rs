//! Which kernels multiply: what the device has, what the settings allow, and what the self-test trusts.

use std::collections::HashMap;
use std::sync::Mutex;

use tensor::{BackendError, Format};

use crate::adapter::GpuTier;
use crate::device::ShaderChoice;

/// A choice among the kernels of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    /// Edge of cooperative matrices, where these are used.
    pub(crate) cooperative: Option<usize>,
    /// Few rows multiply as bytes, by packed dot products.
    pub(crate) dots: bool,
    /// The input of a single row goes through workgroup memory.
    pub(crate) staged: bool,
    /// Lanes are reduced by subgroup operations.
    pub(crate) subgroups: bool,
}

/// The variant of each format. A format is here once its kernels agreed with the reference.
pub(crate) struct Variants {
    best: Variant,
    trusted: Mutex<HashMap<Format, Variant>>,
}

impl Variant {
    /// The best that `choice` allows on a device with matrices of `tier`.
    ///
    /// # Errors
    /// The choice insists on what is not there.
    pub(crate) fn choose(
        choice: ShaderChoice,
        tier: GpuTier,
        subgroups: bool,
        dots: bool,
        device: &str,
    ) -> Result<Variant, BackendError> {
        let edge = match tier {
            GpuTier::Plain => None,
            GpuTier::Cooperative8 => Some(8),
            GpuTier::Cooperative16 => Some(16),
        };
        if choice == ShaderChoice::Cooperative && edge.is_none() {
            return Err(BackendError::Unsupported {
                device: device.into(),
                what: "kernels by cooperative matrices (simdgroup)".into(),
                limit: "the device or its driver has none that take f16 and give f32; set \
                        MISTRAL_METAL_SHADER_VARIANT to optimized, tiled or baseline"
                    .into(),
            });
        }
        Ok(match choice {
            ShaderChoice::Best | ShaderChoice::Cooperative => {
                Variant { cooperative: edge, dots: dots && subgroups, staged: subgroups, subgroups }
            }
            ShaderChoice::Tiled => Variant { cooperative: None, dots: false, staged: subgroups, subgroups },
            ShaderChoice::Baseline => Variant { cooperative: None, dots: false, staged: false, subgroups },
        })
    }

    /// The next simpler one; `None` when there is none.
    pub(crate) fn simpler(self) -> Option<Variant> {
        if self.dots {
            Some(Variant { dots: false, ..self })
        } else if self.cooperative.is_some() {
            Some(Variant { cooperative: None, ..self })
        } else if self.staged {
            Some(Variant { staged: false, ..self })
        } else if self.subgroups {
            Some(Variant { subgroups: false, ..self })
        } else {
            None
        }
    }

    /// In a few words.
    pub(crate) fn describe(self, subgroup_size: u32) -> String {
        let matrices = self.cooperative.map_or("register tiles".into(), |edge| format!("{edge}x{edge} matrices"));
        let staged = if self.staged { ", staged input" } else { "" };
        let dots = if self.dots { ", 8-bit dot products" } else { "" };
        let reduction = match self.subgroups {
            true => format!("subgroups of {subgroup_size}"),
            false => "reduction through workgroup memory".to_owned(),
        };
        format!("{matrices}{dots}{staged}, {reduction}")
    }
}

impl Variants {
    pub(crate) fn new(best: Variant) -> Variants {
        Variants { best, trusted: Mutex::default() }
    }

    /// What a format without faults gets.
    pub(crate) fn best(&self) -> Variant {
        self.best
    }

    /// What `format` gets.
    pub(crate) fn of(&self, format: Format) -> Variant {
        self.trusted().get(&format).copied().unwrap_or(self.best)
    }

    /// Whether the kernels of `format` were tested.
    pub(crate) fn is_trusted(&self, format: Format) -> bool {
        self.trusted().contains_key(&format)
    }

    pub(crate) fn trust(&self, format: Format, variant: Variant) {
        self.trusted().insert(format, variant);
    }

    pub(crate) fn distrust(&self, format: Format) {
        self.trusted().remove(&format);
    }

    fn trusted(&self) -> std::sync::MutexGuard<'_, HashMap<Format, Variant>> {
        self.trusted.lock().expect("no panic while the lock is held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_subgroups_reduces_through_workgroup_memory() {
        for choice in [ShaderChoice::Best, ShaderChoice::Tiled, ShaderChoice::Baseline] {
            let variant = Variant::choose(choice, GpuTier::Plain, false, true, "a card").expect("there are kernels");
            assert_eq!(
                variant,
                Variant { cooperative: None, dots: false, staged: false, subgroups: false },
                "{choice:?}"
            );
            assert!(variant.describe(1).contains("reduction through workgroup memory"));
            assert_eq!(variant.simpler(), None);
        }
    }

    #[test]
    fn matrices_that_the_device_lacks_are_refused_and_the_error_says_what_to_set() {
        let error = Variant::choose(ShaderChoice::Cooperative, GpuTier::Plain, false, true, "a card");
        let error = error.expect_err("it has none").to_string();
        for part in ["a card", "cooperative matrices", "MISTRAL_METAL_SHADER_VARIANT", "tiled"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn the_best_of_each_tier_is_taken() {
        for (tier, edge) in
            [(GpuTier::Plain, None), (GpuTier::Cooperative8, Some(8)), (GpuTier::Cooperative16, Some(16))]
        {
            let variant = Variant::choose(ShaderChoice::Best, tier, true, true, "a card").expect("there are kernels");
            assert_eq!(variant, Variant { cooperative: edge, dots: true, staged: true, subgroups: true });
        }
    }
}
