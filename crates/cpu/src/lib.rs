//! How a CPU runs the stages: thread pool, packed weights, kernels by instruction set.
