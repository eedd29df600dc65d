//! What this machine could do at best, measured now, by the threads that compute.
//!
//! A figure in tokens a second says little where neighbours, power limits and the placement of virtual cores change by
//! the minute (on a two-core virtual machine the bandwidth of two threads was seen to differ by a factor of two within
//! seconds). So a benchmark measures these roofs in the same process, before and after, and reports the share of the
//! roof that was reached.
//!
//! Start with [`Roofs::measure`]. It takes half a second, or more where memory is slow.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::isa::Isa;
use crate::machine::available_bytes;
use crate::memory::{Arena, HUGE_PAGE_BYTES, OutOfMemory};
use crate::pool::{Pool, RegionPanic};
use crate::simd::lanes::LANES;
use crate::simd::{Kernel, Simd};

/// Bytes that all threads together read for the bandwidth. A last-level cache keeps some of what was read a pass ago: of
/// two threads with 32 MB of it for each, a quarter of 256 MB in all, a sixteenth of this.
const READ_BYTES: usize = 1 << 30;

/// Bytes that each thread reads at least; no more where [`READ_BYTES`] would be more than half of the memory that is left.
const READ_BYTES_PER_THREAD: usize = 128 << 20;

/// Passes over that memory; the best and the median are kept. Few: each is long, and a benchmark waits for them after every
/// run.
const READ_PASSES: usize = 5;

/// Products in a burst of arithmetic, 15 us with AVX-512 and more elsewhere. A multiple of every number of sums.
const BURST_PRODUCTS: usize = 120_000;

/// Bursts; the best is kept.
const BURSTS: usize = 20;

/// Independent sums in a burst: enough to hide the latency of what adds to them on two ports.
const SUMS: usize = 12;

/// The same where registers are few and a vector takes two of them or more.
const FEW_SUMS: usize = 6;

/// The same of dot products of bytes: a latency of up to five cycles on two ports takes ten registers of sums, and more would
/// leave no room for the factors, of which each sum has its own.
const FEW_DOT_SUMS: usize = 5;

/// The same of bf16, whose factors are two a sum.
const FEW_BF16_SUMS: usize = 4;

/// Vectors that a burst multiplies, in turns: were it the same one always, the compiler would multiply once and then only
/// add. Too many to be kept in registers, few enough for the nearest cache.
const FACTORS: usize = 64;

/// Round trips of a cache line between two threads; the best is kept.
const ROUND_TRIPS: usize = 300;

/// Longest round trip between threads that may be of one core.
const MOST_SMT_NS: f64 = 45.0;

/// What threads with cores of their own have at least of their arithmetic alone: they wait for the last, and clocks differ.
const LEAST_OWN_CORES: f64 = 0.75;

/// The limits of a machine at a pool's thread count.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofs {
    /// Threads that measured.
    pub threads: usize,
    /// Their instruction set.
    pub isa: Isa,
    /// Bytes a second that all threads together read from memory, best pass.
    pub read_bytes_per_s: f64,
    /// The same, median of all passes.
    pub read_bytes_per_s_median: f64,
    /// Multiplications and additions of bytes a second (each counts) in the dot product that this instruction set has; for
    /// AVX2, which has none, pairs of products added up in 16 bits.
    pub integer_ops_per_s: f64,
    /// Multiplications and additions of f32 a second.
    pub float_ops_per_s: f64,
    /// Multiplications and additions of bf16 a second.
    pub bf16_ops_per_s: f64,
    /// Where the threads run, before and after.
    pub placement: [Placement; 2],
}

/// How far the leader and each worker are apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    /// One a worker: round trip of a cache line between the leader and it. On Zen 4: 27 ns for two threads of a core, 62
    /// for cores of a die, 300 for two dies; on Zen 5 30 to 40 for cores of a die, 200 for two dies.
    pub round_trip_ns: Vec<f64>,
    /// Whether the threads have the arithmetic of fewer cores between them than they are. Only looked at where every round
    /// trip is so short that they may be threads of one core.
    pub shares_cores: bool,
}

/// Why the roofs could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum RoofError {
    /// Not enough memory to measure its bandwidth.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// A thread panicked.
    #[error(transparent)]
    Panic(#[from] RegionPanic),
}

impl Roofs {
    /// Measures with all threads of the pool.
    ///
    /// # Errors
    /// Too little memory.
    pub fn measure(pool: &Pool, isa: Isa) -> Result<Roofs, RoofError> {
        let before = Placement::measure(pool, isa)?;
        let mut passes = read_bandwidth(pool, isa)?;
        passes.sort_by(f64::total_cmp);
        Ok(Roofs {
            threads: pool.threads(),
            isa,
            read_bytes_per_s: passes[passes.len() - 1],
            read_bytes_per_s_median: passes[passes.len() / 2],
            integer_ops_per_s: burst(pool, isa, Arithmetic::Integer, 0..pool.threads())?,
            float_ops_per_s: burst(pool, isa, Arithmetic::Float, 0..pool.threads())?,
            bf16_ops_per_s: burst(pool, isa, Arithmetic::Bf16, 0..pool.threads())?,
            placement: [before, Placement::measure(pool, isa)?],
        })
    }
}

impl Placement {
    /// The state of virtual cores in a word: `smt` for threads of one core, `die` for cores that share a cache, `dies` for
    /// cores further apart, `alone` for a single thread. The border between `die` and `dies` lies between what Zen 3 to Zen 5
    /// show; other processors may differ, so only equal words compare.
    pub fn name(&self) -> &'static str {
        match self.greatest_ns() {
            None => "alone",
            Some(_) if self.shares_cores => "smt",
            Some(ns) if ns < 150.0 => "die",
            Some(_) => "dies",
        }
    }

    fn greatest_ns(&self) -> Option<f64> {
        self.round_trip_ns.iter().copied().reduce(f64::max)
    }

    /// Measures the round trip between the leader and each worker, and whether they share cores.
    ///
    /// # Errors
    /// When a thread panicked.
    pub fn measure(pool: &Pool, isa: Isa) -> Result<Placement, RegionPanic> {
        let mut placement = Placement { round_trip_ns: round_trips(pool)?, shares_cores: false };
        if placement.greatest_ns().is_some_and(|ns| ns < MOST_SMT_NS) {
            let threads = pool.threads();
            let together = burst(pool, isa, Arithmetic::Float, 0..threads)?;
            let mut slowest = f64::INFINITY;
            for thread in 0..threads {
                slowest = slowest.min(burst(pool, isa, Arithmetic::Float, thread..thread + 1)?);
            }
            placement.shares_cores = shares_cores(slowest, together, threads);
        }
        Ok(placement)
    }
}

/// Whether `threads` threads share cores, by the operations a second of the slowest of them alone and of all together.
fn shares_cores(slowest: f64, together: f64, threads: usize) -> bool {
    together < slowest * threads as f64 * LEAST_OWN_CORES
}

/// Nanoseconds of the best round trip between the leader and each worker.
fn round_trips(pool: &Pool) -> Result<Vec<f64>, RegionPanic> {
    let mut round_trip_ns = Vec::new();
    for worker in 1..pool.threads() {
        let ball = AtomicU64::new(0);
        let best_ns = AtomicU64::new(u64::MAX);
        pool.on_each_thread(|thread| {
            let side = match thread {
                0 => 0,
                thread if thread == worker => 1,
                _ => return,
            };
            let mut last = Instant::now();
            for trip in 0..ROUND_TRIPS as u64 {
                while ball.load(Ordering::Acquire) != 2 * trip + side {
                    std::hint::spin_loop();
                }
                ball.store(2 * trip + side + 1, Ordering::Release);
                let now = Instant::now();
                // The first trip waits for the other thread to arrive.
                if trip > 0 {
                    best_ns.fetch_min((now - last).as_nanos() as u64, Ordering::Relaxed);
                }
                last = now;
            }
        })?;
        round_trip_ns.push(best_ns.into_inner() as f64);
    }
    Ok(round_trip_ns)
}

/// Bytes a second of each pass.
fn read_bandwidth(pool: &Pool, isa: Isa) -> Result<Vec<f64>, RoofError> {
    let threads = pool.threads();
    let mut thread_bytes = (READ_BYTES / threads).next_multiple_of(HUGE_PAGE_BYTES).max(READ_BYTES_PER_THREAD);
    if (threads * thread_bytes) as u64 > available_bytes() / 2 {
        tracing::warn!("little memory is left: reading is measured over what caches keep a part of");
        thread_bytes = READ_BYTES_PER_THREAD;
    }
    // An arena of its own, which is given back at the end.
    let mut memory = Arena::default().alloc(threads * thread_bytes)?;
    // Written by the threads that will read it, and written at all: untouched memory is one page of zeros.
    let parts: Vec<Mutex<&mut [u8]>> = memory.chunks_mut(thread_bytes).map(Mutex::new).collect();
    pool.on_each_thread(|thread| parts[thread].lock().expect("no thread panicked").fill(1))?;
    drop(parts);
    let memory = &memory[..];
    let mut passes = Vec::new();
    for _ in 0..READ_PASSES {
        let start = Instant::now();
        pool.on_each_thread(|thread| {
            let bytes = &memory[thread * thread_bytes..(thread + 1) * thread_bytes];
            read(isa, bytes);
        })?;
        passes.push(memory.len() as f64 / start.elapsed().as_secs_f64());
    }
    Ok(passes)
}

/// Reads memory in ascending order and does nothing with it. The bytes count in whole vectors of f32.
pub fn read(isa: Isa, bytes: &[u8]) {
    std::hint::black_box(isa.dispatch(Read { bytes }));
}

struct Read<'a> {
    bytes: &'a [u8],
}

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let vectors = bytemuck::cast_slice::<u8, f32>(self.bytes).as_chunks::<LANES>().0;
        let mut sums = [s.splat(0.0); 4];
        for vectors in vectors.as_chunks::<4>().0 {
            for i in 0..4 {
                sums[i] = s.add(sums[i], s.load(&vectors[i]));
            }
        }
        s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
    }
}

/// What a burst does.
#[derive(Clone, Copy)]
enum Arithmetic {
    Integer,
    Float,
    Bf16,
}

/// Operations a second of some threads in the best burst.
fn burst(pool: &Pool, isa: Isa, arithmetic: Arithmetic, threads: Range<usize>) -> Result<f64, RegionPanic> {
    let ops_per_lane = match arithmetic {
        Arithmetic::Integer => 8,
        Arithmetic::Float => 2,
        Arithmetic::Bf16 => 4,
    };
    let mut best = Duration::MAX;
    for _ in 0..BURSTS {
        let start = Instant::now();
        pool.on_each_thread(|thread| {
            if !threads.contains(&thread) {
                return;
            }
            std::hint::black_box(isa.dispatch(Burst { arithmetic, products: std::hint::black_box(BURST_PRODUCTS) }));
        })?;
        best = best.min(start.elapsed());
    }
    Ok((BURST_PRODUCTS * threads.len() * LANES * ops_per_lane) as f64 / best.as_secs_f64())
}

struct Burst {
    arithmetic: Arithmetic,
    products: usize,
}

impl Kernel for Burst {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let words = std::hint::black_box([[0x0302_3f80; LANES]; FACTORS]);
        let factors: [u32; SUMS] = std::hint::black_box(std::array::from_fn(|sum| 0x3f80_3f81 + sum as u32));
        let mut sums = [s.splat(1.0); SUMS];
        let (float_sums, dot_sums, bf16_sums) =
            if S::REGISTERS > SUMS { (SUMS, SUMS, SUMS) } else { (FEW_SUMS, FEW_DOT_SUMS, FEW_BF16_SUMS) };
        match self.arithmetic {
            Arithmetic::Integer => {
                let mut integers = [s.splat_i(1); SUMS];
                for step in 0..self.products / dot_sums {
                    let words = s.load_words(&words[step % FACTORS]);
                    for sum in 0..dot_sums {
                        integers[sum] = s.dot_narrow(words, factors[sum], integers[sum]);
                    }
                }
                sums = integers.map(|sum| s.to_float(sum));
            }
            Arithmetic::Float => {
                let (a, b) = (s.splat(f32::from_bits(factors[0])), s.load(&std::hint::black_box([1e-9; LANES])));
                for _ in 0..self.products / float_sums {
                    for sum in &mut sums[..float_sums] {
                        *sum = s.fma(a, b, *sum);
                    }
                }
            }
            Arithmetic::Bf16 => {
                for step in 0..self.products / bf16_sums {
                    let words = s.load_words(&words[step % FACTORS]);
                    for sum in 0..bf16_sums {
                        sums[sum] = s.dot_bf16(words, factors[sum], sums[sum]);
                    }
                }
            }
        }
        let mut total = s.splat(0.0);
        for sum in sums {
            total = s.add(total, sum);
        }
        s.sum(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PoolConfig;

    #[test]
    fn places_have_names() {
        let name = |round_trip_ns: &[f64], shares_cores| {
            Placement { round_trip_ns: round_trip_ns.to_vec(), shares_cores }.name()
        };
        assert_eq!(name(&[], false), "alone");
        assert_eq!(name(&[27.0], true), "smt");
        assert_eq!(name(&[35.0], false), "die");
        assert_eq!(name(&[62.0, 149.0], false), "die");
        assert_eq!(name(&[62.0, 200.0], false), "dies");
    }

    #[test]
    fn threads_of_one_core_have_its_arithmetic_together() {
        assert!(shares_cores(1.0, 1.1, 2));
        assert!(!shares_cores(1.0, 1.9, 2));
        assert!(shares_cores(1.0, 4.4, 8));
        assert!(!shares_cores(1.0, 7.0, 8));
    }

    #[test]
    fn roofs_are_of_a_plausible_size() {
        let pool = Pool::new(&PoolConfig { threads: Some(2), pin: false }).expect("two threads");
        let roofs = Roofs::measure(&pool, Isa::detect()).expect("1 GiB, or 256 MiB");
        // Between a slow single-board computer and the largest server.
        assert!((1e8..1e13).contains(&roofs.read_bytes_per_s), "{roofs:?}");
        assert!(roofs.read_bytes_per_s_median <= roofs.read_bytes_per_s);
        for ops in [roofs.integer_ops_per_s, roofs.float_ops_per_s, roofs.bf16_ops_per_s] {
            assert!((1e8..1e16).contains(&ops), "{roofs:?}");
        }
        assert_eq!(roofs.placement[0].round_trip_ns.len(), 1);
    }

    #[test]
    fn bursts_count_those_that_work() {
        let pool = Pool::new(&PoolConfig { threads: Some(2), pin: false }).expect("two threads");
        let burst = |threads| burst(&pool, Isa::detect(), Arithmetic::Float, threads).expect("no panic");
        assert_eq!(burst(0..0), 0.0);
        assert!(burst(1..2) > 0.0);
    }
}
