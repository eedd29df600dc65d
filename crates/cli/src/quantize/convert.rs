//! Matrices into other formats, row by row, on several threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tensor::{Format, QuantizeError, TensorView};

use crate::settings::{Settings, defs};

/// Values that a thread converts at a time.
const CHUNK_VALUES: usize = 1 << 16;

/// Converts matrices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Converter {
    threads: usize,
}

/// Why a matrix could not be converted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum ConvertError {
    /// A value or an importance that is no use.
    #[error("row {row}: {error}")]
    Row { row: usize, error: QuantizeError },
    /// Rows that are no whole number of blocks.
    #[error("rows of {cols} values are no whole number of blocks of {}, which have {}", .format.name(), .format.block_len())]
    Blocks { cols: usize, format: Format },
}

impl Converter {
    /// As many threads as MISTRAL_NUM_THREADS says, by default one for each usable core.
    pub(crate) fn new(settings: &Settings) -> Self {
        let threads = match settings.len(&defs::NUM_THREADS) {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        Self { threads }
    }

    /// Threads that it uses.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// The matrix in another format; `importance` has a value for each column. Takes the result and a row a thread.
    /// `read` is called whenever some rows have been read, for the memory behind them to be given back.
    pub(crate) fn convert(
        &self,
        from: TensorView<'_>,
        to: Format,
        importance: Option<&[f32]>,
        read: &(dyn Fn() + Sync),
    ) -> Result<Vec<u8>, ConvertError> {
        let blocks = ConvertError::Blocks { cols: from.cols, format: to };
        let row_bytes = to.row_bytes(from.cols).ok_or(blocks)?;
        let mut out = vec![0; row_bytes * from.rows];
        let chunk_rows = (CHUNK_VALUES / from.cols).max(1);
        let failure = Mutex::new(None);
        self.share_out(out.chunks_mut(chunk_rows * row_bytes).enumerate(), |(chunk, bytes), values: &mut Vec<f32>| {
            values.resize(from.cols, 0.0);
            for (row, out) in (chunk * chunk_rows..).zip(bytes.chunks_exact_mut(row_bytes)) {
                from.dequantize_row(row, values);
                if let Err(error) = to.quantize_row(values, importance, out) {
                    lock(&failure).get_or_insert(ConvertError::Row { row, error });
                    return;
                }
            }
            read();
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(out),
            Some(error) => Err(error),
        }
    }

    /// Runs `work` on every item, on all threads; each thread has a vector of its own to work with.
    fn share_out<I>(&self, items: I, work: impl Fn(I::Item, &mut Vec<f32>) + Sync)
    where
        I: Iterator + Send,
    {
        let items = Mutex::new(items);
        let run = || {
            let mut values = Vec::new();
            loop {
                let Some(item) = lock(&items).next() else { return };
                work(item, &mut values);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(run);
            }
            run();
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows as formats define them, whatever the number of threads.
    #[test]
    fn threads_change_nothing() {
        let (rows, cols) = (301, 256);
        let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 504.0).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = TensorView::new(Format::F32, rows, cols, &bytes).unwrap();
        let importance: Vec<f32> = (0..cols).map(|i| 1.0 + i as f32).collect();
        for format in [Format::Q8_0, Format::Q4_K, Format::F16] {
            let mut expected = vec![0; format.row_bytes(cols).unwrap() * rows];
            let row_bytes = expected.len() / rows;
            for (row, out) in values.chunks_exact(cols).zip(expected.chunks_exact_mut(row_bytes)) {
                format.quantize_row(row, Some(&importance), out).unwrap();
            }
            for threads in [1, 3] {
                let converted = Converter { threads }.convert(view, format, Some(&importance), &|| {}).unwrap();
                assert!(converted == expected, "{} on {threads} threads", format.name());
            }
        }
    }

    #[test]
    fn a_value_that_is_no_number_is_named() {
        let mut values = vec![0.5_f32; 512];
        values[300] = f32::NAN;
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = TensorView::new(Format::F32, 2, 256, &bytes).unwrap();
        let error = Converter { threads: 2 }.convert(view, Format::Q4_K, None, &|| {}).unwrap_err();
        assert!(error.to_string().starts_with("row 1: value NaN at column 44"), "{error}");
        let odd = TensorView::new(Format::F32, 16, 32, &bytes).unwrap();
        assert!(Converter { threads: 2 }.convert(odd, Format::Q4_K, None, &|| {}).is_err());
    }
}
