//! Rows of activations, quantized once per input.
//!
//! What `backend` counts on: `Activations` is made with room for the most rows and columns, `reset(kind, rows, cols)`
//! allocates nothing, and `tiles_mut()` gives its tiles (a fixed number of rows each, the last may have fewer), which
//! threads fill apart from each other from f32 rows.
