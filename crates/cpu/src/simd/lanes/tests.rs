//! Every operation on every instruction set of this machine, against plain Rust.

use half::{bf16, f16};

use super::*;
use crate::simd::math;

/// What all instruction sets must agree on to the last bit.
struct AllOperations<'a> {
    a: &'a [f32; LANES],
    b: &'a [f32; LANES],
    c: &'a [f32; LANES],
}

impl Kernel for AllOperations<'_> {
    type Output = Vec<(&'static str, [u32; LANES])>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let (a, b, c) = (s.load(self.a), s.load(self.b), s.load(self.c));
        let small = s.min(s.max(a, s.splat(-126.0)), s.splat(127.0));
        let mut out = Vec::new();
        for (name, x) in [
            ("add", s.add(a, b)),
            ("sub", s.sub(a, b)),
            ("mul", s.mul(a, b)),
            ("div", s.div(a, b)),
            ("fma", s.fma(a, b, c)),
            ("min", s.min(a, b)),
            ("max", s.max(a, b)),
            ("round", s.round(a)),
            ("exp2", s.exp2_of_integer(s.round(small))),
            ("times power", s.times_power(b, s.round(small))),
            ("less", s.select(s.less(a, b), a, b)),
            ("lanes", s.select(s.lanes_between(3, 13), a, b)),
            ("no lanes", s.select(s.lanes_between(5, 5), a, b)),
            ("all lanes", s.select(s.lanes_between(0, 16), a, b)),
            ("sum", s.splat(s.sum(a))),
            ("greatest", s.splat(s.greatest(a))),
            ("load halves", s.load_halves(&[self.a[1]; 8], self.b.last_chunk().expect("16 lanes"))),
            ("exp", math::exp(s, a)),
            ("silu", math::silu(s, a)),
            ("tanh", math::tanh(s, a)),
            ("gelu", math::gelu_tanh(s, a)),
        ] {
            let mut lanes = [0.0; LANES];
            s.store(x, &mut lanes);
            out.push((name, lanes.map(f32::to_bits)));
        }
        let mut halves = self.a.map(|x| f16::from_f32(x).to_bits());
        let mut wide = [0.0; LANES];
        s.store(s.load_f16(&halves), &mut wide);
        out.push(("load f16", wide.map(f32::to_bits)));
        s.store_bf16(a, &mut halves);
        out.push(("store bf16", halves.map(u32::from)));
        let bytes = std::array::from_fn(|i| std::array::from_fn(|k| (halves[k] >> i) as i8 | 1));
        let [sums, magnitudes] = s.byte_sums(&bytes);
        out.push(("sums of bytes", sums.map(|sum| sum as u32)));
        out.push(("sums of magnitudes", magnitudes.map(|sum| sum as u32)));
        let bytes = std::array::from_fn(|i| halves[i] as i8);
        s.store(s.load_i8(&bytes), &mut wide);
        out.push(("load i8", wide.map(f32::to_bits)));
        let mut bytes = [0; LANES];
        s.store_i8(s.round(s.min(s.max(a, s.splat(-128.0)), s.splat(127.0))), &mut bytes);
        out.push(("store i8", bytes.map(|byte| byte as u32)));
        let (low, high) = s.load_nibbles(&bytes.map(|byte| byte as u8));
        s.store(low, &mut wide);
        out.push(("low nibbles", wide.map(f32::to_bits)));
        s.store(high, &mut wide);
        out.push(("high nibbles", wide.map(f32::to_bits)));
        // Bytes of every value but 0; factors of every odd value.
        let words = s.load_words(&self.b.map(|x| x.to_bits() | 0x0101_0101));
        let factors = self.c[0].to_bits() & 0x7f7f_7f7f | 0x8101_0181;
        let sum_of_factors = factors.to_le_bytes().iter().map(|&byte| i32::from(byte as i8)).sum();
        for (name, sum) in [
            ("dot offset", s.dot_offset(words, factors, s.offset_start(sum_of_factors))),
            ("dot low", s.dot_small(s.low_nibbles(words), factors, s.splat_i(-7))),
            ("dot high", s.dot_small(s.high_nibbles(words), factors, s.splat_i(-7))),
        ] {
            s.store(s.to_float(sum), &mut wide);
            out.push((name, wide.map(f32::to_bits)));
        }
        out
    }
}

/// Values of every magnitude and sign, no NaN; some equal, some halfway between two halves.
fn samples(seed: u32) -> [f32; LANES] {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    std::array::from_fn(|i| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let unit = (state >> 8) as f32 / 8_388_608.0 - 1.0;
        match (seed as usize + i) % 8 {
            0 => unit,
            1 => unit * 100.0,
            2 => (unit * 10.0).round() + 0.5,
            3 => unit * 1e-3,
            4 => bf16::from_f32(unit).to_f32() + bf16::from_f32(unit).to_f32() / 512.0,
            5 => f16::from_f32(unit).to_f32() * (1.0 + 1.0 / 2048.0),
            6 => unit * 1e-30,
            _ => unit * 6e4,
        }
    })
}

#[test]
fn all_instruction_sets_agree_to_the_last_bit() {
    for seed in 1..2000 {
        let (a, b, c) = (samples(seed), samples(seed + 7777), samples(seed + 55_555));
        let expected = Isa::Scalar.dispatch(AllOperations { a: &a, b: &b, c: &c });
        for isa in Isa::available() {
            let found = isa.dispatch(AllOperations { a: &a, b: &b, c: &c });
            for (expected, found) in expected.iter().zip(&found) {
                assert_eq!(expected, found, "{isa}, seed {seed}: {a:?}");
            }
        }
    }
}

struct DotBf16<'a> {
    words: &'a [u32; LANES],
    factors: u32,
}

impl Kernel for DotBf16<'_> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let mut out = [0.0; LANES];
        s.store(s.dot_bf16(s.load_words(self.words), self.factors, s.splat(1.0)), &mut out);
        out
    }
}

#[test]
fn bf16_dot_products_agree_within_rounding() {
    for seed in 1..500 {
        let pair =
            |x: f32, y: f32| u32::from(bf16::from_f32(x).to_bits()) | u32::from(bf16::from_f32(y).to_bits()) << 16;
        let (a, b) = (samples(seed), samples(seed + 99));
        let words: [u32; LANES] = std::array::from_fn(|i| pair(a[i], b[i]));
        let factors = pair(b[3], a[5]);
        let wide = |bits: u32| f64::from(f32::from_bits(bits));
        for isa in Isa::available() {
            let found = isa.dispatch(DotBf16 { words: &words, factors });
            for (word, found) in words.iter().zip(found) {
                let products = [wide(word << 16) * wide(factors << 16), wide(word & !0xffff) * wide(factors & !0xffff)];
                let expected = 1.0 + products[0] + products[1];
                let size = 1.0 + products[0].abs() + products[1].abs();
                let error = (f64::from(found) - expected).abs();
                assert!(error <= size * 2.0 * f64::from(f32::EPSILON), "{isa}: {found} instead of {expected}");
            }
        }
    }
}

struct Exp<'a>(&'a [f32; LANES]);

impl Kernel for Exp<'_> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let mut out = [0.0; LANES];
        s.store(math::exp(s, s.load(self.0)), &mut out);
        out
    }
}

#[test]
fn exp_is_close_to_the_library() {
    /// Rounding of x * log2(e) alone moves e^x by half an ulp of the product, times ln 2.
    const RELATIVE: f64 = 5e-6;
    for step in -870..880 {
        let x = step as f32 / 10.0;
        let found = Isa::detect().dispatch(Exp(&[x; LANES]))[0];
        let expected = f64::from(x).exp();
        assert!((f64::from(found) / expected - 1.0).abs() < RELATIVE, "exp({x}) = {found}, not {expected}");
    }
    assert_eq!(Isa::detect().dispatch(Exp(&[0.0; LANES]))[0], 1.0);
    for isa in Isa::available() {
        for x in [f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            assert_eq!(isa.dispatch(Exp(&[x; LANES])), [2.0_f32.powi(-126); LANES], "{isa}: exp({x})");
        }
    }
}
