//! The only place that speaks in intrinsics.
