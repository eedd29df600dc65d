//! The gated linear unit: activation(gate) * up.

use tensor::Activation;

use crate::simd::{Simd, math};

/// activation(gate) * up.
#[inline(always)]
pub fn gated<S: Simd>(s: S, activation: Activation, gate: S::F, up: S::F) -> S::F {
    let gate = match activation {
        Activation::Silu => math::silu(s, gate),
        Activation::GeluTanh => math::gelu_tanh(s, gate),
    };
    s.mul(gate, up)
}
