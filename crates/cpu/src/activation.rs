//! Rows of activations in the forms that the kernels read, made once per input and used by every panel of weights.
//!
//! Rows stand in *tiles* of up to [`Forms::tile_rows`] rows. Within a tile the rows' words alternate (`[word][row]`), so
//! that a kernel finds the operands of all rows at constant offsets of one address. A row is computed from its own
//! values alone and is the same in a tile of any size.
//!
//! Start with [`Activations::reset`]; [`Form`] says what the forms hold. What this does not do: norms, and choosing
//! the form, which belongs to the kernel ([`crate::pack::PackedMatrix::forms`]).

mod block256;
mod block32;
mod float;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "AVX2's order"))]
pub(crate) mod paired256;

use crate::Isa;
use crate::simd::lanes::LANES;
use crate::simd::{Kernel, Simd};

pub(crate) use block32::Unit32;
pub(crate) use block256::Block256;
#[cfg(target_arch = "x86_64")]
pub(crate) use paired256::Paired256;

/// Most rows in a tile of any form.
pub const MAX_TILE_ROWS: usize = 6;

/// A form that kernels read activations in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// 8-bit integers; 32 values share a power of two, a row shares an f32 scale. For weights in blocks of 32.
    Block32,
    /// 8-bit integers; 256 values share an f32 scale. For weights in super-blocks of 256.
    Block256,
    /// The same numbers in another order.
    Paired256,
    /// f32, padded with zeros to a multiple of [`FLOAT_PAD`].
    F32,
    /// Pairs of bf16, rounded from f32, padded with zeros to a multiple of [`FLOAT_PAD`].
    Bf16,
}

/// Columns of float weights and activations are padded to a multiple of this.
pub(crate) const FLOAT_PAD: usize = 32;

impl Form {
    const ALL: [Form; 5] = [Form::Block32, Form::Block256, Form::Paired256, Form::F32, Form::Bf16];

    /// Rows of a tile at most: what the registers of the kernels hold.
    const fn tile_rows(self, isa: Isa) -> usize {
        match (self, isa) {
            (_, Isa::Scalar) => 1,
            (Form::Block256 | Form::Paired256, _) | (Form::Block32, Isa::Avx2 | Isa::AvxVnni) => 4,
            (Form::Block32 | Form::F32 | Form::Bf16, _) => MAX_TILE_ROWS,
        }
    }

    /// Words of 32 bits that a row of `cols` values takes.
    fn row_words(self, cols: usize) -> usize {
        match self {
            Form::Block32 => block32::row_words(cols),
            Form::Block256 => block256::row_words(cols),
            Form::Paired256 => paired256::row_words(cols),
            Form::F32 => cols.next_multiple_of(FLOAT_PAD),
            Form::Bf16 => cols.next_multiple_of(FLOAT_PAD) / 2,
        }
    }
}

/// A set of forms: a stack of matrices in several formats may need more than one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms(u8);

impl Forms {
    /// No form.
    pub const NONE: Forms = Forms(0);

    /// This set and `form`.
    #[must_use]
    pub const fn with(self, form: Form) -> Forms {
        Forms(self.0 | 1 << form as u8)
    }

    /// Whether `form` is in the set.
    pub const fn contains(self, form: Form) -> bool {
        self.0 >> form as u8 & 1 == 1
    }

    fn iter(self) -> impl Iterator<Item = Form> {
        Form::ALL.into_iter().filter(move |&form| self.contains(form))
    }

    /// Rows of a tile at most.
    pub fn tile_rows(self, isa: Isa) -> usize {
        self.iter().map(|form| form.tile_rows(isa)).min().unwrap_or(MAX_TILE_ROWS)
    }
}

/// Rows of activations, in tiles.
#[derive(Debug)]
pub struct Activations {
    words: Vec<u32>,
    layout: Layout,
}

impl Activations {
    /// Room for `max_rows` rows of `max_cols` values in the given forms. [`Activations::reset`] to anything that is not
    /// larger allocates nothing.
    ///
    /// # Panics
    /// When this machine does not have `isa`.
    pub fn new(isa: Isa, forms: Forms, max_rows: usize, max_cols: usize) -> Activations {
        assert!(isa.is_available(), "{isa} on a machine without it");
        let layout = Layout { isa, forms, rows: 0, cols: 0, tile_rows: 1 };
        let mut activations = Activations { words: Vec::new(), layout };
        activations.reset(forms, max_rows, max_cols);
        activations
    }

    /// Makes this `rows` rows of `cols` values in the given forms, to be filled through [`Activations::tiles_mut`]. The
    /// old contents are lost.
    ///
    /// # Panics
    /// When `cols` is no multiple of the length of a form's block.
    pub fn reset(&mut self, forms: Forms, rows: usize, cols: usize) {
        assert!(!forms.contains(Form::Block32) || cols.is_multiple_of(32), "{cols} columns in blocks of 32");
        let blocks_of_256 = forms.contains(Form::Block256) || forms.contains(Form::Paired256);
        assert!(!blocks_of_256 || cols.is_multiple_of(256), "{cols} columns in blocks of 256");
        let tiles = rows.div_ceil(forms.tile_rows(self.layout.isa));
        // Tiles of nearly equal size: 9 rows are 5 + 4, not 6 + 3.
        let tile_rows = if tiles == 0 { 1 } else { rows.div_ceil(tiles) };
        self.layout = Layout { isa: self.layout.isa, forms, rows, cols, tile_rows };
        let words = self.layout.tiles() * self.layout.tile_words();
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
    }

    /// Words of 32 bits that it has room for.
    pub fn words(&self) -> usize {
        self.words.capacity()
    }

    /// Bytes of so many rows in the given forms.
    pub fn predict_bytes(forms: Forms, rows: usize, cols: usize) -> usize {
        4 * rows * forms.iter().map(|form| form.row_words(cols)).sum::<usize>()
    }

    /// Shape and forms.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// The words of all tiles, [`Layout::tile_words`] each, for [`Layout::tile`]: threads may fill tiles apart from each
    /// other.
    pub fn words_mut(&mut self) -> (Layout, &mut [u32]) {
        (self.layout, &mut self.words[..self.layout.tiles() * self.layout.tile_words()])
    }

    /// The tiles, to be filled.
    pub fn tiles_mut(&mut self) -> impl Iterator<Item = TileMut<'_>> {
        let (layout, words) = self.words_mut();
        words.chunks_mut(layout.tile_words().max(1)).enumerate().map(move |(index, words)| layout.tile(index, words))
    }

    /// Fills every row: `rows` is `[rows][cols]`.
    ///
    /// # Panics
    /// When `values` has another size.
    pub fn fill(&mut self, values: &[f32]) {
        let Layout { rows, cols, .. } = self.layout;
        assert_eq!(values.len(), rows * cols, "{rows} rows of {cols} activations");
        for mut tile in self.tiles_mut() {
            for (slot, row) in tile.rows().enumerate() {
                tile.fill(slot, &values[row * cols..(row + 1) * cols]);
            }
        }
    }

    /// One form of the tile at `index`: `[word][row]`.
    pub(crate) fn tile_words(&self, index: usize, form: Form) -> &[u32] {
        let layout = self.layout;
        let rows = layout.rows_of_tile(index).len();
        let start = index * layout.tile_words() + rows * layout.first_word(form);
        &self.words[start..start + rows * form.row_words(layout.cols)]
    }
}

/// Shape and forms of [`Activations`].
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    isa: Isa,
    forms: Forms,
    rows: usize,
    cols: usize,
    tile_rows: usize,
}

impl Layout {
    /// Tiles.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(self.tile_rows)
    }

    /// Words of a tile; the last tile, which may have fewer rows, does not use all of its words.
    pub fn tile_words(&self) -> usize {
        self.tile_rows * self.row_words()
    }

    /// The rows of a tile.
    pub fn rows_of_tile(&self, index: usize) -> std::ops::Range<usize> {
        index * self.tile_rows..self.rows.min((index + 1) * self.tile_rows)
    }

    /// A tile over its words.
    ///
    /// # Panics
    /// When `words` is not as long as a tile.
    pub fn tile<'a>(&self, index: usize, words: &'a mut [u32]) -> TileMut<'a> {
        assert_eq!(words.len(), self.tile_words(), "words of a tile");
        TileMut { layout: *self, rows: self.rows_of_tile(index), words }
    }

    fn row_words(&self) -> usize {
        self.forms.iter().map(|form| form.row_words(self.cols)).sum()
    }

    /// Words of a row before those of `form`.
    fn first_word(&self, form: Form) -> usize {
        debug_assert!(self.forms.contains(form), "{form:?} was not asked for");
        self.forms.iter().take_while(|&other| other != form).map(|form| form.row_words(self.cols)).sum()
    }
}

/// A tile of [`Activations`], to be filled.
#[derive(Debug)]
pub struct TileMut<'a> {
    layout: Layout,
    rows: std::ops::Range<usize>,
    words: &'a mut [u32],
}

impl TileMut<'_> {
    /// The rows of this tile, as indices of [`Activations`].
    pub fn rows(&self) -> std::ops::Range<usize> {
        self.rows.clone()
    }

    /// Fills the row at `slot` of this tile, in every form.
    ///
    /// # Panics
    /// When `values` is not a row, or the tile has no such slot.
    pub fn fill(&mut self, slot: usize, values: &[f32]) {
        let layout = self.layout;
        let rows = self.rows.len();
        assert_eq!(values.len(), layout.cols, "activations of a row");
        assert!(slot < rows, "slot {slot} of a tile of {rows} rows");
        let mut words = &mut self.words[..];
        for form in layout.forms.iter() {
            let (form_words, rest) = words.split_at_mut(rows * form.row_words(layout.cols));
            layout.isa.dispatch(Fill { form, row: RowMut { words: form_words, rows, slot }, values });
            words = rest;
        }
    }
}

/// Fills a row in one form: with lanes, or in plain Rust, which the compiler turns into the vectors of the instruction set.
/// It neither contracts nor reorders float operations, so that the result is the same on each (of bf16, what is normal).
struct Fill<'a> {
    form: Form,
    row: RowMut<'a>,
    values: &'a [f32],
}

impl Kernel for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Fill { form, mut row, values } = self;
        match form {
            Form::Block32 => block32::fill(s, &mut row, values),
            Form::Block256 => block256::fill(s, &mut row, values),
            Form::Paired256 => paired256::fill(s, &mut row, values),
            Form::F32 => float::fill_f32(&mut row, values),
            Form::Bf16 => float::fill_bf16(s, &mut row, values),
        }
    }
}

/// The words of one row among those of its tile: word `i` is `words[i * rows + slot]`.
struct RowMut<'a> {
    words: &'a mut [u32],
    rows: usize,
    slot: usize,
}

impl RowMut<'_> {
    /// Words of the row.
    #[inline(always)]
    fn len(&self) -> usize {
        self.words.len() / self.rows
    }

    #[inline(always)]
    fn set(&mut self, word: usize, value: u32) {
        self.words[word * self.rows + self.slot] = value;
    }

    /// Sets words from `first` on, each to four bytes.
    #[inline(always)]
    fn set_bytes(&mut self, first: usize, bytes: &[i8]) {
        let words = bytes.as_chunks::<4>().0;
        if self.rows == 1 {
            // One copy, where rows beside it would make each word an address of its own.
            let to = &mut self.words[first..first + words.len()];
            return bytemuck::cast_slice_mut::<u32, [i8; 4]>(to).copy_from_slice(words);
        }
        for (word, bytes) in words.iter().enumerate() {
            self.set(first + word, u32::from_le_bytes(bytes.map(|byte| byte as u8)));
        }
    }
}

/// The greatest |x|, unless one is infinite or no number. Values count in whole vectors.
#[inline(always)]
fn greatest_magnitude<S: Simd>(s: S, values: &[f32]) -> Option<f32> {
    let mut greatest = s.splat(0.0);
    // Becomes NaN by an infinity or a NaN.
    let mut zero = s.splat(0.0);
    for x in values.as_chunks::<LANES>().0 {
        let x = s.load(x);
        greatest = s.max(magnitude(s, x), greatest);
        zero = s.fma(x, s.splat(0.0), zero);
    }
    (s.sum(zero) == 0.0).then(|| s.greatest(greatest))
}

/// |x|
#[inline(always)]
fn magnitude<S: Simd>(s: S, x: S::F) -> S::F {
    s.max(x, s.sub(s.splat(0.0), x))
}
