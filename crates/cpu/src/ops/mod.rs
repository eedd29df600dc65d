//! The small operations between the matrix products, on the rows of one head or one hidden state.

pub mod glu;
pub mod norm;
pub mod rope;
pub mod top_k;
