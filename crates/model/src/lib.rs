//! What a network is: configuration, architectures, weights, the one forward pass.
