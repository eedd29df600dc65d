//! The small operations between the matrix products.
