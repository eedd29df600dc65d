//! The instruction sets that kernels exist for.
//!
//! An [`Isa`] is found once, when a backend is made, and handed down as a value; tests hand down another one to run the
//! slower kernels on a faster machine. Kernels are chosen by it at load, never per call.

use std::fmt;

/// A tier of instruction sets. Those of one kind of processor each include what the ones before have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust: every machine, and the oracle of the others.
    Scalar,
    /// x86: AVX2, FMA, F16C.
    Avx2,
    /// x86: and AVX-VNNI, the 8-bit dot product in 256 bits.
    AvxVnni,
    /// x86: AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// x86: and AVX-512 BF16, the bf16 dot product.
    Avx512Bf16,
    /// ARM: NEON with the 8-bit dot product and half-precision arithmetic.
    NeonDotprod,
    /// ARM: and the 8-bit matrix product.
    NeonI8mm,
}

impl Isa {
    /// Every tier: tests iterate this and skip what [`Isa::is_available`] denies.
    pub const ALL: [Isa; 7] =
        [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Avx512Bf16, Isa::NeonDotprod, Isa::NeonI8mm];

    /// The best tier of this machine.
    pub fn detect() -> Isa {
        const BEST_FIRST: [Isa; 6] =
            [Isa::Avx512Bf16, Isa::Avx512, Isa::AvxVnni, Isa::Avx2, Isa::NeonI8mm, Isa::NeonDotprod];
        BEST_FIRST.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar)
    }

    /// The tiers that this machine can run, slowest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// Whether this machine can run the tier.
    pub fn is_available(self) -> bool {
        self == Isa::Scalar || detected(self)
    }

    /// The name that logs and settings use.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512 => "avx512-vnni",
            Isa::Avx512Bf16 => "avx512-vnni-bf16",
            Isa::NeonDotprod => "neon-dotprod",
            Isa::NeonI8mm => "neon-i8mm",
        }
    }

    /// The tier with this [`Isa::name`].
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn detected(isa: Isa) -> bool {
    let avx2 =
        || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = || {
        avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
    };
    match isa {
        Isa::Avx2 => avx2(),
        Isa::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
        Isa::Avx512 => avx512(),
        Isa::Avx512Bf16 => avx512() && is_x86_feature_detected!("avx512bf16"),
        Isa::Scalar | Isa::NeonDotprod | Isa::NeonI8mm => false,
    }
}

#[cfg(target_arch = "aarch64")]
fn detected(isa: Isa) -> bool {
    use std::arch::is_aarch64_feature_detected;
    let dotprod = || is_aarch64_feature_detected!("dotprod") && is_aarch64_feature_detected!("fp16");
    match isa {
        Isa::NeonDotprod => dotprod(),
        Isa::NeonI8mm => dotprod() && is_aarch64_feature_detected!("i8mm"),
        _ => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detected(_: Isa) -> bool {
    false
}

#[cfg(test)]
impl Isa {
    /// The tiers that long tests run: all of this machine; of an emulated one, which is slow, the best alone.
    pub(crate) fn of_long_tests() -> Vec<Isa> {
        match tests::emulated() {
            Some(isa) => {
                assert!(isa.is_available(), "{isa}");
                vec![isa]
            }
            None => Isa::available().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an emulated machine must be found to have, from `FRONTIER_TEST_ISA`.
    pub(super) fn emulated() -> Option<Isa> {
        let name = std::env::var("FRONTIER_TEST_ISA").ok()?;
        Some(Isa::from_name(&name).unwrap_or_else(|| panic!("FRONTIER_TEST_ISA: no instruction set {name}")))
    }

    #[test]
    fn detected_tier_is_available() {
        let detected = Isa::detect();
        assert!(detected.is_available(), "{detected}");
        if let Some(expected) = emulated() {
            assert_eq!(detected, expected);
        }
    }

    #[test]
    fn names_are_read_back() {
        for isa in Isa::ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::from_name("sse9"), None);
    }
}
