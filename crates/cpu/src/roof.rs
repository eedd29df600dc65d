//! What this machine could do at best.
