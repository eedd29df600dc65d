//! Cutting outputs into parts that different threads write at the same time.

use std::marker::PhantomData;
use std::ops::Range;

/// Outputs of a region, cut into one part an item.
///
/// # Safety
/// Parts of different items must not overlap, and a part must be usable from another thread than `self`'s.
pub unsafe trait Parts: Sync {
    /// What an item may write.
    type Part;

    /// How many items there are.
    fn items(&self) -> usize;

    /// The part of `item`.
    ///
    /// # Safety
    /// `item < self.items()`, and no item is asked for while its part is in use.
    unsafe fn part(&self, item: usize) -> Self::Part;
}

/// Parts of which adjacent ones are a part, too.
///
/// # Safety
/// As [`Parts`].
pub unsafe trait Runs: Parts {
    /// The part of all of `items`.
    ///
    /// # Safety
    /// `items` is not empty and ends at most at `self.items()`; no item is asked for while its part is in use.
    unsafe fn run(&self, items: Range<usize>) -> Self::Part;
}

/// A slice, cut into pieces of equal length (the last may be shorter).
#[derive(Debug)]
pub struct Chunks<'a, T> {
    first: *mut T,
    len: usize,
    chunk: usize,
    slice: PhantomData<&'a mut [T]>,
}

impl<'a, T> Chunks<'a, T> {
    /// Pieces of `chunk` elements. A chunk of 0 makes no item.
    pub fn new(slice: &'a mut [T], chunk: usize) -> Chunks<'a, T> {
        Chunks { first: slice.as_mut_ptr(), len: slice.len(), chunk, slice: PhantomData }
    }
}

// SAFETY: a `Chunks` only gives out `&mut T`s that nobody else has, so sharing it moves `T`s between threads.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

// SAFETY: [item * chunk, (item + 1) * chunk) are disjoint.
unsafe impl<'a, T: Send> Parts for Chunks<'a, T> {
    type Part = &'a mut [T];

    fn items(&self) -> usize {
        if self.chunk == 0 { 0 } else { self.len.div_ceil(self.chunk) }
    }

    unsafe fn part(&self, item: usize) -> &'a mut [T] {
        // SAFETY: as the caller promises.
        unsafe { self.run(item..item + 1) }
    }
}

// SAFETY: as above.
unsafe impl<T: Send> Runs for Chunks<'_, T> {
    unsafe fn run(&self, items: Range<usize>) -> Self::Part {
        let start = items.start * self.chunk;
        let end = self.len.min(items.end * self.chunk);
        // SAFETY: within the slice that `new` borrowed for 'a; the caller asks for each item once, so nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), end - start) }
    }
}

/// A slice, cut at given ranges. What lies between them is left alone.
#[derive(Debug)]
pub struct Cuts<'a, T> {
    first: *mut T,
    ranges: &'a [Range<usize>],
    slice: PhantomData<&'a mut [T]>,
}

impl<'a, T> Cuts<'a, T> {
    /// One part a range.
    ///
    /// # Panics
    /// When the ranges are not ascending and apart, or leave the slice.
    pub fn new(slice: &'a mut [T], ranges: &'a [Range<usize>]) -> Cuts<'a, T> {
        let mut end = 0;
        for range in ranges {
            assert!(end <= range.start && range.start <= range.end, "{range:?} after {end}");
            end = range.end;
        }
        assert!(end <= slice.len(), "{end} of {} elements", slice.len());
        Cuts { first: slice.as_mut_ptr(), ranges, slice: PhantomData }
    }
}

// SAFETY: a `Cuts` only gives out `&mut T`s that nobody else has, so sharing it moves `T`s between threads.
unsafe impl<T: Send> Sync for Cuts<'_, T> {}

// SAFETY: `new` checked that the ranges are disjoint.
unsafe impl<'a, T: Send> Parts for Cuts<'a, T> {
    type Part = &'a mut [T];

    fn items(&self) -> usize {
        self.ranges.len()
    }

    unsafe fn part(&self, item: usize) -> &'a mut [T] {
        let range = &self.ranges[item];
        // SAFETY: within the slice, as `new` checked; the caller asks for each item once, so nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }
}

// SAFETY: parts of both are disjoint by themselves, and the two borrow different memory.
unsafe impl<A: Parts, B: Parts> Parts for (A, B) {
    type Part = (A::Part, B::Part);

    fn items(&self) -> usize {
        self.0.items().min(self.1.items())
    }

    unsafe fn part(&self, item: usize) -> Self::Part {
        // SAFETY: `item` is below both counts and asked for once.
        unsafe { (self.0.part(item), self.1.part(item)) }
    }
}

// SAFETY: as above.
unsafe impl<A: Runs, B: Runs> Runs for (A, B) {
    unsafe fn run(&self, items: Range<usize>) -> Self::Part {
        // SAFETY: the items are below both counts and asked for once.
        unsafe { (self.0.run(items.clone()), self.1.run(items)) }
    }
}

/// The items of `A`, then those of `B`.
#[derive(Debug)]
pub struct Then<A, B>(pub A, pub B);

/// A part of one of two kinds.
#[derive(Debug)]
pub enum Either<A, B> {
    /// Of the first.
    First(A),
    /// Of the second.
    Second(B),
}

// SAFETY: parts of both are disjoint by themselves, and the two borrow different memory.
unsafe impl<A: Parts, B: Parts> Parts for Then<A, B> {
    type Part = Either<A::Part, B::Part>;

    fn items(&self) -> usize {
        self.0.items() + self.1.items()
    }

    unsafe fn part(&self, item: usize) -> Self::Part {
        let first = self.0.items();
        // SAFETY: the index is within the half it falls in, and asked for once.
        unsafe {
            if item < first { Either::First(self.0.part(item)) } else { Either::Second(self.1.part(item - first)) }
        }
    }
}
