//! Weight matrices in the order in which the kernels read them.
//!
//! What `backend` counts on: a matrix is a sequence of *panels* of `panel_rows()` rows. `multiply(panels, rows, out)`
//! writes `out` as `[panel of the range][activation row][row of the panel]`, all of it, so that a range of panels is one
//! contiguous piece and threads share no cache line. Stacked parts each start a new panel (`Concatenated`), or take turns
//! panel by panel (`Interleaved`: g0, u0, g1, u1, ...); rows that pad a part's last panel give zeros.
