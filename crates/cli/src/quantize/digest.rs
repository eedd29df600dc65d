//! BLAKE3 of tensors, on several threads: at several bytes a cycle it costs a start less than reading the weights.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use blake3::{Hash, Hasher, hash};
use checkpoint::Tensor;

/// Bytes that are hashed in one go; what a tensor's digest is made of.
const PIECE_BYTES: usize = 8 << 20;

/// A digest of names, formats, shapes and bytes of tensors, in their order. `done` is called with the name of a tensor
/// whenever a piece of it has been read.
pub(crate) fn digest(tensors: &[Tensor<'_>], threads: usize, done: &(dyn Fn(&str) + Sync)) -> String {
    let pieces: Vec<(Tensor<'_>, &[u8])> =
        tensors.iter().flat_map(|tensor| tensor.data.chunks(PIECE_BYTES).map(move |piece| (*tensor, piece))).collect();
    let next = AtomicUsize::new(0);
    let digests = Mutex::new(vec![Hash::from_bytes([0; 32]); pieces.len()]);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(pieces.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((tensor, piece)) = pieces.get(index) else { return };
                    let hash = hash(piece);
                    digests.lock().expect("nothing panics with the lock held")[index] = hash;
                    done(tensor.name);
                }
            });
        }
    });
    let digests = digests.into_inner().expect("nothing panics with the lock held");
    let mut whole = Digester::default();
    let mut rest = digests.as_slice();
    for tensor in tensors {
        let (own, others) = rest.split_at(tensor.data.len().div_ceil(PIECE_BYTES));
        whole.add(tensor.name, tensor.format.name(), tensor.shape, own);
        rest = others;
    }
    whole.finish()
}

/// The same digest, of tensors that come one by one.
#[derive(Default)]
pub(crate) struct Digester(Hasher);

impl Digester {
    /// Adds a tensor.
    pub(crate) fn add_tensor(&mut self, name: &str, format: &str, shape: &[usize], data: &[u8]) {
        let own: Vec<Hash> = data.chunks(PIECE_BYTES).map(hash).collect();
        self.add(name, format, shape, &own);
    }

    /// The digest in hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        self.0.finalize().to_string()
    }

    fn add(&mut self, name: &str, format: &str, shape: &[usize], pieces: &[Hash]) {
        self.0.update(format!("{name}\0{format}\0{shape:?}\0").as_bytes());
        for piece in pieces {
            self.0.update(piece.as_bytes());
        }
    }
}
